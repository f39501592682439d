"""Say why the genes of a data set do not fit a vocabulary, and what to do about it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pandas as pd

from scfoundry._settings import logger
from scfoundry.data.genes.match import match
from scfoundry.data.genes.names import as_names

if TYPE_CHECKING:
    from scfoundry.data.genes.alignment import GeneAlignment
    from scfoundry.data.genes.index import GeneIndex
    from scfoundry.data.genes.names import Names

__all__ = ["SCHEMES", "check_overlap", "warn_of_few_shared", "warn_of_orthologs"]

_FEW = 0.5  # below this share a match works but deserves a word
# Fewer shared genes are warned of where no others are read: in number, and as a share of the smaller side.
_FEW_SHARED, _SMALL_SHARE = 50, 0.1
SCHEMES = {
    "ensembl": "human Ensembl ids",
    "symbol": "gene symbols",
    "mouse_ensembl": "mouse Ensembl ids",
    "mouse_symbol": "mouse symbols",
    "unknown": "names of no known scheme",
}
_LOOKS_LIKE = {
    r"ENSMUSG\d{11}.*": "mouse Ensembl ids; only one-to-one orthologs of human genes can be matched",
    r"ENS[A-Z]*T\d{11}.*": "Ensembl transcript ids: sum the counts of the transcripts of a gene first",
    r"ENS[A-Z]+G\d{11}.*": "Ensembl ids of another species: translate them to human orthologs first",
    r"\d+": "row numbers or Entrez ids: set `adata.var_names` to gene symbols or Ensembl ids",
    r".+_at|ILMN_\d+|A_\d+_P\d+": "microarray probe ids: translate them to gene symbols first",
}


# What genes and genomes, or symbols and ids, are joined with in one name: "GRCh38_CD3E", "CD3E|ENSG00000198851".
_SEPARATORS = "_|:;"


def check_overlap(index: GeneIndex, alignment: GeneAlignment, *, var: pd.DataFrame | None, min_overlap: float) -> None:
    """Raise where too few genes match, warn where they are few."""
    n_matched = len(alignment.measured)
    found = (
        f"{n_matched:,} of {len(alignment.names):,} genes of the data are among the {len(index):,} of the "
        f"vocabulary (overlap {alignment.overlap:.1%})"
    )
    if n_matched and alignment.overlap >= min_overlap:
        if alignment.overlap < _FEW:
            logger.warning("Only %s: results rest on few genes.", found)
        return
    msg = (
        f"Only {found}; at least {min_overlap:.0%} is needed. "
        f"The data use {SCHEMES[alignment.scheme]} ({_examples(alignment.names)}), "
        f"the vocabulary uses {index.species} {SCHEMES[index.scheme].removeprefix('human ')} "
        f"({_examples(index.ids)}). {_fix(index, alignment, var, min_overlap)}"
    )
    raise ValueError(msg)


def warn_of_few_shared(n_shared: int, n_smaller: int, *, names: tuple[str, str], caller: str) -> None:
    """Warn where two data sets share few of the model's genes, of the number that the smaller side has."""
    if n_shared < max(_FEW_SHARED, _SMALL_SHARE * n_smaller):
        first, second = names
        logger.warning(
            "%s: %s and %s share only %s genes of the model, of the %s on the smaller side: results rest on few "
            "genes.%s",
            caller,
            first,
            second,
            f"{n_shared:,}",
            f"{n_smaller:,}",
            f" Compare {first}.var_names with {second}.var_names." if n_shared < n_smaller else "",
        )


def warn_of_orthologs(share: float, *, caller: str) -> None:
    """Say how much of mouse data a model of human genes reads, as a share of all counts."""
    logger.warning(
        "%s: mouse genes are read as their one-to-one human orthologs; %s of the counts are of genes with one that the "
        "model knows.",
        caller,
        f"{share:.0%}",
    )


def _examples(names: Names) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "") if len(names) else "none at all"


def _fix(index: GeneIndex, alignment: GeneAlignment, var: pd.DataFrame | None, min_overlap: float) -> str:
    column = None if var is None else _better_column(index, var, max(alignment.overlap, min_overlap))
    if column is not None:
        return f"The column `{column}` does match: `adata.var_names = adata.var[{column!r}]`."
    if part := _better_part(index, alignment.names, max(alignment.overlap, min_overlap)):
        separator, place = part
        return (
            "Parts of the names do match: "
            f'`adata.var_names = adata.var_names.str.split("{separator}").str[{place}]`, then '
            "`adata.var_names_make_unique()`."
        )
    for pattern, meaning in _LOOKS_LIKE.items():
        if sum(re.fullmatch(pattern, name) is not None for name in alignment.names) > len(alignment.names) / 2:
            return f"The names look like {meaning}."
    if alignment.scheme == "unknown":
        return "Set `adata.var_names` to gene symbols or Ensembl ids."
    return "The names are those of genes, but not of the genes this model knows: choose a model of the same species."


def _better_column(index: GeneIndex, var: pd.DataFrame, overlap: float) -> str | None:
    """Column of `var` whose values match best, if better than a given overlap."""
    overlaps = {
        column: match(index, as_names(var[column])).overlap
        for column in var.columns
        if not pd.api.types.is_numeric_dtype(var[column])
    }
    best = max(overlaps, key=lambda column: overlaps[column], default=None)
    return best if best is not None and overlaps[best] > overlap else None


def _better_part(index: GeneIndex, names: Names, overlap: float) -> tuple[str, int] | None:
    """Separator of the names, and the first or last part between them whose matches are most, if more than given."""
    overlaps = {
        (separator, place): match(index, as_names([name.split(separator)[place] for name in names])).overlap
        for separator in _SEPARATORS
        if any(separator in name for name in names)
        for place in (0, -1)
    }
    best = max(overlaps, key=lambda part: overlaps[part], default=None)
    return best if best is not None and overlaps[best] > overlap else None
