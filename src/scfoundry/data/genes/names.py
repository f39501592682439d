"""What genes are called: the shipped table of human names with mouse orthologs, and look-up by named routes."""

from __future__ import annotations

import functools
import itertools
import re
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    Names = NDArray[np.object_]
    Index = Mapping[str, Mapping[str, int]]  # route -> name -> position

__all__ = ["as_names", "find", "gene_names", "gene_table", "ignore_case", "is_ensembl", "stable_ids"]

_GENE_ID = re.compile(r"(?P<id>(?P<prefix>ENS[A-Z]*G)\d{11})(?:\.\d+)?(?:_PAR_Y)?")
_ENSEMBL = {"ensembl": "ENSG", "mouse_ensembl": "ENSMUSG"}


@dataclass(frozen=True, eq=False)
class GeneNames:
    """The shipped table, turned inside out: for every route, which name leads to which gene (row)."""

    ids: Names
    symbols: Names
    human: Index
    mouse: Index

    def count_schemes(self, names: Names, *, also_symbol: NDArray[np.bool_]) -> dict[str, int]:
        """Count the names that are exact in each scheme; ``also_symbol`` marks further ones that count as symbols."""
        prefixes = list(map(_ensembl_prefix, names.tolist()))
        counts = {scheme: prefixes.count(prefix) for scheme, prefix in _ENSEMBL.items()}
        symbol, previous, mouse = self.human["symbol"], self.human["previous"], self.mouse["mouse_symbol"]
        exact = np.fromiter((name in symbol or name in previous for name in names), bool, len(names))
        is_symbol = np.fromiter((not prefix for prefix in prefixes), bool, len(names))
        counts["symbol"] = int(((exact | also_symbol) & is_symbol).sum())
        counts["mouse_symbol"] = sum(name in mouse for name in names)
        return counts


def gene_table() -> pd.DataFrame:
    """Read the shipped table, one row per human gene, indexed by Ensembl id."""
    with resources.files("scfoundry.data").joinpath("human_genes.tsv.gz").open("rb") as file:
        return pd.read_csv(file, sep="\t", dtype=str, keep_default_na=False, compression="gzip", index_col=0)


@functools.cache
def gene_names() -> GeneNames:
    """Load the shipped table once."""
    table = gene_table()
    ids = as_names(table.index)
    symbols = as_names(table["symbol"])
    human = {
        "ensembl": _positions(ids),
        "symbol": _positions(symbols),
        "previous": _positions(table["previous"]),
        "alias": _positions(table["alias"]),
    }
    human["case"] = ignore_case(human["alias"]) | ignore_case(human["previous"]) | ignore_case(human["symbol"])
    mouse = {route: _positions(table[route]) for route in ("mouse_ensembl", "mouse_symbol")}
    return GeneNames(ids=ids, symbols=symbols, human=human, mouse=mouse)


def as_names(names: Iterable[object]) -> Names:
    """Names as an object array of `str`; missing values become empty."""
    listed = list(names)
    if set(map(type, listed)) <= {str}:
        return np.fromiter(listed, object, len(listed))
    column = pd.Series(listed, dtype=object)
    return column.where(column.notna(), "").map(str).to_numpy(dtype=object)


def stable_ids(names: Names) -> Names:
    """Ensembl ids without version and pseudo-autosomal copy; every other name as it is.

    >>> stable_ids(np.array(["ENSG00000198851.10", "ENSG00000002586.20_PAR_Y", "CD3E"], dtype=object)).tolist()
    ['ENSG00000198851', 'ENSG00000002586', 'CD3E']
    """
    return np.fromiter(map(_stable_id, names), object, len(names))


def is_ensembl(names: Names, prefix: str | None = None) -> NDArray[np.bool_]:
    """Which names have the form of an Ensembl gene id, of any species unless a prefix (``"ENSG"``: human) is given."""
    prefixes = map(_ensembl_prefix, names.tolist())
    return np.fromiter((found == prefix if prefix else found != "" for found in prefixes), bool, len(names))


def find(index: Index, names: Names) -> tuple[NDArray[np.int64], Names]:
    """Position and route of names, by the routes of an index in its order; -1 and "" where none knows a name.

    Ensembl ids are looked up a second time without their version.
    """
    positions, routes = _find_as_spelled(index, names)
    unknown = np.flatnonzero(positions < 0)
    stable = stable_ids(names[unknown])
    changed = stable != names[unknown]
    unknown = unknown[changed]
    positions[unknown], routes[unknown] = _find_as_spelled(index, stable[changed])
    return positions, routes


def _find_as_spelled(index: Index, names: Names) -> tuple[NDArray[np.int64], Names]:
    positions = np.full(len(names), -1, dtype=np.int64)
    routes = np.full(len(names), "", dtype=object)
    for route, position_of in index.items():
        unknown = np.flatnonzero(positions < 0)
        if not len(unknown):
            break
        spelled = [name.upper() for name in names[unknown]] if route == "case" else names[unknown].tolist()
        found = np.fromiter(map(position_of.get, spelled, itertools.repeat(-1)), np.int64, len(unknown))
        positions[unknown] = found
        routes[unknown[found >= 0]] = route
    return positions, routes


def _gene_id(name: str) -> re.Match[str] | None:
    if not name.startswith("ENS"):
        return None
    # Old GENCODE releases write the Y copy of a pseudo-autosomal gene with an R in place of the first zero.
    return _GENE_ID.fullmatch(name.replace("ENSGR", "ENSG0", 1))


# Every look at a data set asks for the same names again.
@functools.lru_cache(maxsize=2**16)
def _stable_id(name: str) -> str:
    match = _gene_id(name)
    return match["id"] if match else name


@functools.lru_cache(maxsize=2**16)
def _ensembl_prefix(name: str) -> str:
    match = _gene_id(name)
    return match["prefix"] if match else ""


def _positions(column: Iterable[str]) -> dict[str, int]:
    """Row of every name in a column of comma-joined names."""
    return {name: row for row, names in enumerate(column) if names for name in names.split(",")}


def ignore_case(position_of: Mapping[str, int]) -> dict[str, int]:
    """Rows by upper-case name; -1, as for an unknown name, where only case tells two genes apart."""
    rows: dict[str, int] = {}
    for name, row in position_of.items():
        upper = name.upper()
        rows[upper] = row if rows.get(upper, row) == row else -1
    return rows
