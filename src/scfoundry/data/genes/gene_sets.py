"""Sets of genes, as GMT files hold them."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from scfoundry.data.genes.match import match
from scfoundry.data.genes.names import as_names

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from scfoundry.data.genes.vocabulary import GeneVocabulary

__all__ = ["members_of", "read_gene_sets"]

FORMAT = "A GMT file has a line per set: its name, a description and its genes, separated by tabs."
DICT = "gene_sets={'name': ['CD3E', ...]}"


def read_gene_sets(source: str | Path | Mapping[str, Iterable[str]]) -> dict[str, list[str]]:
    """Names of the genes of every set, from a dict or a GMT file (gzipped if it ends in ``.gz``).

    A line of GMT is the name of a set, a description, and its genes, separated by tabs.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is no text, a line has no genes, a set is named twice, or there is no set.
    """
    if not isinstance(source, str | Path):
        sets = {str(name): list(map(str, genes)) for name, genes in source.items()}
    else:
        path, sets = Path(source).expanduser(), {}
        for number, line in enumerate(_lines_of(path), start=1):
            name, *fields = line.split("\t")
            genes = [gene for gene in fields[1:] if gene]
            if not line.strip():
                continue
            if not genes or name in sets:
                found = f"names the set {name!r} again" if name in sets else "has no genes"
                msg = f"{path.name}, line {number} {found}. {FORMAT} Or pass a dict: {DICT}."
                raise ValueError(msg)
            sets[name] = genes
    if not sets:
        msg = f"There are no gene sets. Pass a GMT file, or a dict: {DICT}."
        raise ValueError(msg)
    return sets


def _lines_of(path: Path) -> list[str]:
    if not path.is_file():
        msg = f"There is no file {path}. {FORMAT} Or pass a dict: {DICT}."
        raise FileNotFoundError(msg)
    read = gzip.open if path.suffix == ".gz" else open
    try:
        with read(path, "rt", encoding="utf-8") as lines:
            return [line.rstrip("\r\n") for line in lines]
    except (UnicodeDecodeError, gzip.BadGzipFile, EOFError) as error:
        msg = f"{path} is damaged, or no GMT file ({error}). {FORMAT} Or pass a dict: {DICT}."
        raise ValueError(msg) from error


def members_of(sets: Mapping[str, Iterable[str]], vocabulary: GeneVocabulary) -> dict[str, NDArray[np.int64]]:
    """Vocabulary positions of the genes of every set, ascending; their names are matched as those of data."""
    listed = {name: as_names(genes) for name, genes in sets.items()}
    # All together: a few names do not tell their scheme.
    names = as_names(dict.fromkeys(gene for genes in listed.values() for gene in genes))
    position = dict(zip(names.tolist(), match(vocabulary.index, names).target.tolist(), strict=True))
    found = {name: np.unique([position[gene] for gene in genes]).astype(np.int64) for name, genes in listed.items()}
    return {name: positions[positions >= 0] for name, positions in found.items()}
