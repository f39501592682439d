"""Where a vocabulary keeps each gene: by the names it was given, and by the genes of the shipped table."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scfoundry.data.genes.names import find, gene_names, ignore_case, is_ensembl, stable_ids

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from scfoundry.data.genes.names import Index, Names

__all__ = ["GeneIndex", "literal_index"]


@dataclass(frozen=True, eq=False)
class GeneIndex:
    """What names of genes are matched with."""

    ids: Names
    symbols: Names | None  # None where the vocabulary was given none
    aliases: Mapping[str, str]  # further names, each with the id it stands for
    species: str  # only those of "human" are found through the shipped table

    def __len__(self) -> int:
        return len(self.ids)

    @functools.cached_property
    def scheme(self) -> str:
        """Scheme of the ids: ``"ensembl"`` or ``"symbol"``."""
        return "ensembl" if is_ensembl(self.ids).sum() > len(self) / 2 else "symbol"

    @functools.cached_property
    def by_name(self) -> Index:
        """Position of every name the vocabulary was given, by route; symbols that several genes share are left out."""
        return literal_index(self.ids, self.symbols, self.aliases)

    @functools.cached_property
    def by_upper_case(self) -> Mapping[str, int]:
        """Position of every name the vocabulary was given, in upper case; -1 where only case tells two genes apart."""
        return ignore_case({name: position for route in self.by_name.values() for name, position in route.items()})

    @functools.cached_property
    def by_row(self) -> NDArray[np.int64]:
        """Position in the vocabulary of every gene of the shipped table, -1 where absent."""
        return table_positions(self.ids, self.symbols)


def literal_index(ids: Names, symbols: Names | None, aliases: Mapping[str, str]) -> Index:
    """Position of every name, by route: ids first, then symbols that one gene alone has, then aliases."""
    position_of = {name: position for position, name in enumerate(ids)}
    spelled_as_ensembl = is_ensembl(ids)
    ensembl = {name: position_of[name] for name in ids[spelled_as_ensembl]}
    symbol = {name: position_of[name] for name in ids[~spelled_as_ensembl]}
    for name, stable in zip(ids[spelled_as_ensembl], stable_ids(ids[spelled_as_ensembl]), strict=True):
        ensembl.setdefault(stable, position_of[name])
    if symbols is not None:
        unique = ~pd.Index(symbols).duplicated(keep=False) & (symbols != "")
        for position, name in zip(np.flatnonzero(unique).tolist(), symbols[unique], strict=True):
            symbol.setdefault(name, position)
    return {"ensembl": ensembl, "symbol": symbol, "alias": {name: position_of[gene] for name, gene in aliases.items()}}


def table_positions(ids: Names, symbols: Names | None) -> NDArray[np.int64]:
    """Position in the vocabulary of every gene of the shipped table, -1 where absent.

    Ids that the table does not know are found by their symbol. Where two ids mean the same gene, the one that reaches
    it more directly counts, then the first.
    """
    table = gene_names()
    rows, route = find(table.human, ids)
    if symbols is not None:
        unknown = np.flatnonzero((rows < 0) & (symbols != ""))
        rows[unknown], route[unknown] = find(table.human, symbols[unknown])
    rank = {name: rank for rank, name in enumerate(table.human)}
    known = np.flatnonzero(rows >= 0)
    least_direct_first = known[np.argsort([rank[name] for name in route[known]], kind="stable")][::-1]
    positions = np.full(len(table.ids), -1, dtype=np.int64)
    positions[rows[least_direct_first]] = least_direct_first
    return positions
