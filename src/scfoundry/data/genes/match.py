"""Match the names of a data set with a gene vocabulary, by the most direct route that exists."""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scfoundry._settings import logger
from scfoundry.data.genes.alignment import GeneAlignment
from scfoundry.data.genes.names import as_names, find, gene_names, is_ensembl

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from scfoundry.data.genes.index import GeneIndex
    from scfoundry.data.genes.names import Names

__all__ = ["match", "own_names", "warn_of_duplicates"]

_ID_COLUMNS = ("gene_ids", "ensembl_id", "gene_id", "feature_id", "ensembl", "ensembl_ids")
_INDIRECT = {"previous": 1, "alias": 2, "case": 3}  # every other route is equally direct
_VAGUE = ("alias", "case")  # routes that prove nothing where a name reads as one that was made unique
_MADE_UNIQUE = re.compile(r"(.+)[-.]\d+")  # GENE-1 by scanpy, GENE.1 by R


def ensembl_column(var: pd.DataFrame) -> str | None:
    """Name of the first usual column of `var` whose non-empty values are mostly human or mouse Ensembl gene ids."""
    for column in _ID_COLUMNS:
        if column in var.columns:
            values = as_names(var[column])
            values = values[values != ""]
            human_or_mouse = is_ensembl(values, "ENSG") | is_ensembl(values, "ENSMUSG")
            if human_or_mouse.sum() > len(values) / 2:
                return column
    return None


def match(index: GeneIndex, names: Names, *, var: pd.DataFrame | None = None) -> GeneAlignment:
    """Match names, then a column of Ensembl ids, then names without the suffix that made them unique."""
    target, route, known, scheme = _match_names(index, names)
    column = None if var is None else ensembl_column(var)
    if var is not None and column is not None:
        ids = as_names(var[column])
        unmatched = np.flatnonzero((target < 0) & (ids != ""))
        by_id, _, known_id, id_scheme = _match_names(index, ids[unmatched])
        target[unmatched] = by_id
        route[unmatched[by_id >= 0]] = f"var['{column}']"
        known[unmatched] |= known_id
        scheme = id_scheme if scheme == "unknown" else scheme
    _match_stems(names, target, route, known)
    superseded = _drop_less_direct(target, route)
    return GeneAlignment(
        target=target.astype(np.int32),
        route=route.astype(str),
        scheme=scheme,
        n_vocabulary=len(index),
        names=names,
        superseded=superseded,
    )


def own_names(names: Names, species: str) -> NDArray[np.str_]:
    """What the genes of a data set are called, ascending; a name that was made unique is another's."""
    known = is_ensembl(names)
    if species == "human":
        for index in (gene_names().human, gene_names().mouse):
            rows, route = find(index, names)
            known |= (rows >= 0) & ~np.isin(route, _VAGUE)
    return np.unique(names[_originals(names, ~known) < 0].astype(str))


def _match_names(index: GeneIndex, names: Names) -> tuple[NDArray[np.int64], Names, NDArray[np.bool_], str]:
    """Position and route of every name, whether a gene bears it, not as an alias only, and the scheme of the names.

    A name that the vocabulary spells in the same way needs no table. In a mouse data set the ortholog comes first all
    the same, because a few mouse symbols are spelled like other human genes.
    """
    target, route = find(index.by_name, names)
    literal = target >= 0
    known = literal.copy()
    known[~literal] = is_ensembl(names[~literal])
    if index.species != "human" or literal.all():
        return target, route, known, _scheme_of_literal(names, route)

    table = gene_names()
    counts = table.count_schemes(names, also_symbol=literal)
    mouse = counts["mouse_ensembl"] + counts["mouse_symbol"] > counts["ensembl"] + counts["symbol"]
    asked = np.arange(len(names)) if mouse else np.flatnonzero(~literal)
    rows, row_route = find(table.mouse if mouse else table.human, names[asked])
    found = rows >= 0
    known[asked[found & ~np.isin(row_route, _VAGUE)]] = True
    position = np.where(found, index.by_row[rows], -1)
    reached = position >= 0
    target[asked[reached]] = position[reached]
    route[asked[reached]] = row_route[reached]
    if not mouse:
        # Clones and other genes that the table does not have.
        strange = asked[~found]
        own, _ = find({"case": index.by_upper_case}, names[strange])
        target[strange[own >= 0]], route[strange[own >= 0]] = own[own >= 0], "case"
    scheme = max(counts, key=lambda name: counts[name] * (name.startswith("mouse") == mouse))
    return target, route, known, scheme if counts[scheme] else "unknown"


def _scheme_of_literal(names: Names, route: Names) -> str:
    """Scheme of names that a vocabulary spells in the same way: most of its ids are of one species."""
    ensembl = np.flatnonzero(route == "ensembl")
    if len(ensembl) > len(names) / 2:
        for scheme, prefix in (("ensembl", "ENSG"), ("mouse_ensembl", "ENSMUSG")):
            if is_ensembl(names[ensembl[:1]], prefix).all():
                return scheme
    return "symbol" if (route != "").any() else "unknown"


def _match_stems(names: Names, target: NDArray[np.int64], route: Names, known: NDArray[np.bool_]) -> None:
    """Let `GENE-1` follow `GENE`, in place, where no gene bears that name, but as an alias, and `GENE` is present."""
    original = _originals(names, ~known & ((target < 0) | np.isin(route, _VAGUE)))
    follows = original >= 0
    target[follows] = target[original[follows]]
    route[follows] = route[original[follows]]


def _originals(names: Names, asked: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Column of `GENE` for a column `GENE-1`, of those that are asked for; -1 where there is none, or several."""
    original = np.full(len(names), -1, dtype=np.int64)
    unknown = np.flatnonzero(asked)
    if len(unknown):
        once = np.flatnonzero(~pd.Index(names).duplicated(keep=False))
        column_of = dict(zip(names[once], once.tolist(), strict=True))
        stems = [_MADE_UNIQUE.fullmatch(name) for name in names[unknown]]
        original[unknown] = [column_of.get(stem[1], -1) if stem else -1 for stem in stems]
    return original


def _drop_less_direct(target: NDArray[np.int64], route: Names) -> NDArray[np.int64]:
    """Drop, in place, the columns whose gene another column reaches more directly; return which."""
    indirectness = np.fromiter(map(_INDIRECT.get, route, itertools.repeat(0)), np.int64, len(route))
    matched = target >= 0
    most_direct = np.full(target.max(initial=-1) + 1, len(_INDIRECT))
    np.minimum.at(most_direct, target[matched], indirectness[matched])
    superseded = np.flatnonzero(matched)
    superseded = superseded[indirectness[superseded] > most_direct[target[superseded]]]
    target[superseded], route[superseded] = -1, ""
    return superseded


def warn_of_duplicates(index: GeneIndex, alignment: GeneAlignment) -> None:
    """Say which genes are summed over several columns."""
    names, target, times = alignment.names, alignment.target, alignment.columns_of_gene
    repeated = np.flatnonzero(times > 1)
    if not repeated.size:
        return
    examples = "; ".join(f"{index.ids[gene]} ({', '.join(names[target == gene])})" for gene in repeated[:3])
    logger.warning(
        "%s columns repeat the gene of another column; the counts of %s gene(s) are summed: %s%s",
        f"{(times[repeated] - 1).sum():,}",
        f"{len(repeated):,}",
        examples,
        "; ..." if len(repeated) > 3 else "",
    )
