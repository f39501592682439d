"""Gene vocabularies: the ordered genes of a model, and the alignment of any data set with them by name."""

from __future__ import annotations

import functools
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData

from scfoundry.data.genes.alignment import GeneAlignment
from scfoundry.data.genes.index import GeneIndex, literal_index
from scfoundry.data.genes.match import match, warn_of_duplicates
from scfoundry.data.genes.names import as_names, find, gene_names
from scfoundry.data.genes.overlap import check_overlap

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import ArrayLike, NDArray

    from scfoundry.data.genes.names import Index, Names

__all__ = ["GeneAlignment", "GeneVocabulary"]


class GeneVocabulary:
    """Ordered, unique genes of a model.

    Parameters
    ----------
    ids
        Identifier of every gene, Ensembl ids or symbols, in the model's order.
    symbols
        Symbol of every gene; those of the shipped table (else the id itself) if `None`.
    aliases
        Further names, each with the id it stands for.
    species
        Names are translated between Ensembl ids, symbols, old names and mouse orthologs for ``"human"``; for any other
        species they must be spelled as here.
    medians
        Median expression of every gene over the cells that express it, in order; the scale of rank encoding.

    Raises
    ------
    ValueError
        If ids repeat, symbols or medians are not one per id, a median is not positive and finite, or an alias stands
        for an unknown id.

    Examples
    --------
    >>> vocabulary = GeneVocabulary(["ENSG00000198851", "ENSG00000111640"])
    >>> vocabulary.symbols
    array(['CD3E', 'GAPDH'], dtype=object)
    >>> vocabulary.index_of(["GAPDH", "ENSG00000198851.10", "unknown"])
    array([ 1,  0, -1])
    """

    def __init__(
        self,
        ids: Iterable[str],
        symbols: Iterable[str] | None = None,
        *,
        aliases: Mapping[str, str] | None = None,
        species: str = "human",
        medians: ArrayLike | None = None,
    ) -> None:
        self._ids = _frozen(as_names(ids))
        self._given_symbols = None if symbols is None else _frozen(as_names(symbols))
        self._aliases = dict(aliases or {})
        self._species = species
        self._medians = None if medians is None else _checked_medians(medians, len(self._ids))
        repeated = pd.Index(self._ids)[pd.Index(self._ids).duplicated()].unique()
        if len(repeated):
            msg = (
                f"Gene ids must be unique; {len(repeated):,} repeat: {', '.join(repeated[:5])}. "
                "Keep one of each, for instance `GeneVocabulary(dict.fromkeys(ids))`."
            )
            raise ValueError(msg)
        if self._given_symbols is not None and len(self._given_symbols) != len(self._ids):
            msg = f"There are {len(self._ids):,} ids but {len(self._given_symbols):,} symbols; give one symbol per id."
            raise ValueError(msg)
        unknown = sorted(set(self._aliases.values()).difference(self._ids))
        if unknown:
            msg = f"Aliases must stand for ids of the vocabulary (`aliases={{alias: id}}`); unknown: {unknown[:5]}."
            raise ValueError(msg)

    @property
    def ids(self) -> Names:
        """Identifiers, in order."""
        return self._ids

    @functools.cached_property
    def symbols(self) -> Names:
        """Symbols, in order."""
        if self._given_symbols is not None:
            return self._given_symbols
        if self.scheme == "symbol" or self.species != "human":
            return self._ids
        table = gene_names()
        rows, _ = find(table.human, self._ids)
        named = (rows >= 0) & (table.symbols[rows] != "")
        return _frozen(np.where(named, table.symbols[rows], self._ids))

    @property
    def aliases(self) -> dict[str, str]:
        """Further names, each with the id it stands for."""
        return dict(self._aliases)

    @property
    def species(self) -> str:
        """Species of the genes."""
        return self._species

    @property
    def medians(self) -> NDArray[np.float64] | None:
        """Median non-zero expression of every gene, in order; `None` where the vocabulary has none."""
        return self._medians

    @property
    def scheme(self) -> str:
        """Scheme of the ids: ``"ensembl"`` or ``"symbol"``."""
        return self.index.scheme

    @functools.cached_property
    def index(self) -> GeneIndex:
        """What names of genes are matched with."""
        return GeneIndex(self._ids, self._given_symbols, self._aliases, self._species)

    @functools.cached_property
    def _index_with_symbols(self) -> Index:
        return literal_index(self._ids, self.symbols, self._aliases)

    def index_of(self, names: Iterable[str]) -> NDArray[np.int64]:
        """Position of every name (id, symbol or alias), -1 where the vocabulary has none."""
        asked = as_names(names)
        positions, _ = find(self.index.by_name, asked)
        if self._given_symbols is None and (positions < 0).any():
            positions, _ = find(self._index_with_symbols, asked)
        return positions

    def align(
        self, adata: AnnData | Iterable[str], *, min_overlap: float = 0.1, say_shared: bool = True
    ) -> GeneAlignment:
        """Find the column of every gene by name.

        Names are matched by the first of these routes: as spelled in the vocabulary, ``ensembl`` (version ignored),
        ``symbol``, ``previous`` symbol, ``alias``, ``case`` (any of the former, ignoring case). Data sets in mouse
        names go by ``mouse_ensembl`` or ``mouse_symbol`` to the one-to-one ortholog instead. What remains is matched by
        a column of Ensembl ids in `var`, where there is one, then without the suffix that made a name unique (``DBI-1``
        beside ``DBI``, although it is an alias, too). Ambiguous names match nothing. Columns that reach the same gene
        equally directly are summed; less direct ones are dropped.

        Parameters
        ----------
        adata
            Data set, or just the names of its genes. It is only read.
        min_overlap
            Least share of genes that must match, of the smaller of data set and vocabulary.
        say_shared
            Warn of columns that share a gene.

        Returns
        -------
        The alignment; ``alignment.apply(rows)`` moves counts into the order of the vocabulary.

        Raises
        ------
        ValueError
            If fewer genes match, or none.

        Examples
        --------
        >>> vocabulary = GeneVocabulary(["ENSG00000198851", "ENSG00000145416"])
        >>> vocabulary.align(["MARCH1", "CD3E", "PTPRC"]).route
        array(['previous', 'symbol', ''], dtype='<U8')
        """
        var = adata.var if isinstance(adata, AnnData) else None
        names = as_names(adata.var_names if isinstance(adata, AnnData) else adata)
        alignment = match(self.index, names, var=var)
        check_overlap(self.index, alignment, var=var, min_overlap=min_overlap)
        if say_shared:
            warn_of_duplicates(self.index, alignment)
        return alignment

    def subset(self, keep: ArrayLike) -> GeneVocabulary:
        """Part of the vocabulary, by a boolean mask or by positions in the order wanted."""
        keep = np.asarray(keep)
        ids = self._ids[keep]
        symbols = None if self._given_symbols is None else self._given_symbols[keep]
        medians = None if self._medians is None else self._medians[keep]
        kept = set(ids)
        aliases = {alias: gene for alias, gene in self._aliases.items() if gene in kept}
        return GeneVocabulary(ids, symbols, aliases=aliases, species=self.species, medians=medians)

    def write(self, path: str | Path) -> None:
        """Write the vocabulary as tab-separated text: id, symbol and, where there are any, medians and aliases.

        Aliases of a gene are joined by commas; medians read back to the last bit.
        """
        table = pd.DataFrame({"id": self._ids, "symbol": self.symbols})
        if self._medians is not None:
            table["median"] = [repr(median) for median in self._medians.tolist()]
        if self._aliases:
            names = pd.Series(list(self._aliases), index=list(self._aliases.values()), dtype=object)
            table["alias"] = table["id"].map(names.groupby(level=0).agg(",".join)).fillna("")
        table.to_csv(path, sep="\t", index=False, lineterminator="\n")

    @classmethod
    def read(cls, path: str | Path, *, species: str = "human") -> GeneVocabulary:
        """Read a vocabulary written by :meth:`write`; a ValueError without its columns ``id`` and ``symbol``."""
        return _read(Path(path).read_bytes(), Path(path).name, species)

    def as_dict(self) -> dict[str, Any]:
        """Arguments that make this vocabulary anew, as plain values."""
        return {
            "ids": self._ids.tolist(),
            "symbols": None if self._given_symbols is None else self._given_symbols.tolist(),
            "aliases": self.aliases,
            "species": self.species,
            "medians": None if self._medians is None else self._medians.tolist(),
        }

    def __len__(self) -> int:
        return len(self._ids)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and bool(self.index_of([name])[0] >= 0)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, GeneVocabulary):
            return NotImplemented
        return (
            self.species == other.species
            and np.array_equal(self._ids, other._ids)
            and np.array_equal(self.symbols, other.symbols)
            and self._aliases == other._aliases
            and _same(self._medians, other._medians)
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        first = ", ".join(self._ids[:3]) + (", ..." if len(self) > 3 else "")
        return f"GeneVocabulary of {len(self):,} {self.species} genes ({self.scheme}: {first})"


# Every verb opens its weights anew, and what names are matched with takes longer to build than few cells to compute.
@functools.lru_cache(maxsize=8)
def _read(content: bytes, name: str, species: str) -> GeneVocabulary:
    table = pd.read_csv(io.BytesIO(content), sep="\t", dtype=str, keep_default_na=False)
    if not {"id", "symbol"} <= set(table.columns):
        msg = (
            f"{name} has the columns {', '.join(table.columns)}; a gene vocabulary is tab-separated "
            "with the columns id and symbol, as `vocabulary.write(path)` makes it."
        )
        raise ValueError(msg)
    listed = zip(table["alias"], table["id"], strict=True) if "alias" in table else ()
    stands = [(alias, gene) for names, gene in listed if names for alias in names.split(",")]
    aliases = dict(stands)
    if several := sorted({alias for alias, gene in stands if aliases[alias] != gene}):
        msg = f"{name}: an alias stands for one gene; {several[:5]} stand for several. Leave them out of the others."
        raise ValueError(msg)
    medians = [float(median) for median in table["median"]] if "median" in table else None
    return GeneVocabulary(table["id"], table["symbol"], aliases=aliases, species=species, medians=medians)


def _frozen(names: Names) -> Names:
    names.setflags(write=False)
    return names


def _checked_medians(medians: ArrayLike, n_genes: int) -> NDArray[np.float64]:
    checked = np.array(medians, dtype=np.float64)
    if checked.shape != (n_genes,):
        msg = f"There are {n_genes:,} ids but medians of shape {checked.shape}; give one median per id."
        raise ValueError(msg)
    wrong = np.flatnonzero(~((checked > 0) & np.isfinite(checked)))
    if len(wrong):
        msg = (
            f"Medians must be positive and finite, because expression is divided by them; {len(wrong):,} are not, the "
            f"first is {checked[wrong[0]]} of gene {wrong[0]}. Leave such genes out, as `sf.pp.gene_medians` does."
        )
        raise ValueError(msg)
    checked.setflags(write=False)
    return checked


def _same(ours: NDArray[np.float64] | None, theirs: NDArray[np.float64] | None) -> bool:
    if ours is None or theirs is None:
        return ours is theirs
    return np.array_equal(ours, theirs)
