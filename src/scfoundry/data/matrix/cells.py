"""Cells of a data set as models and tasks read them: checked and aligned once, with their samples and places."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from scfoundry.data.matrix.contexts import Context, contexts, coordinates
from scfoundry.data.matrix.joint_reader import JointReader
from scfoundry.data.matrix.parts import over_parts
from scfoundry.data.matrix.reader import CountsInMemory, CountsReader

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from anndata import AnnData
    from numpy.typing import NDArray
    from scipy import sparse

    from scfoundry._workers import Workers
    from scfoundry.data.genes import GeneVocabulary
    from scfoundry.data.matrix.reader import Reader

__all__ = ["Cells"]

CELLS_PER_BLOCK = 4096


@dataclass(frozen=True, eq=False)
class Cells:
    """Cells, their counts in a model's gene order, and how they belong together."""

    reader: Reader
    contexts: Sequence[Context]  # groups of cells that a model sees together; every cell is in exactly one
    coordinates: Mapping[str, NDArray[np.float32]]  # x and y by context, of those with positions
    names: NDArray[np.str_]  # of the cells, (n_obs,)
    source: CountsReader | None = field(default=None, repr=False)

    @classmethod
    def of(
        cls,
        adata: AnnData,
        vocabulary: GeneVocabulary,
        *,
        layer: str | None = None,
        batch_key: str | None = None,
        spatial_key: str | None = None,
        caller: str,
        called: tuple[str, str] = ("adata", "batch_key"),
        allow_log1p: bool = True,
        workers: Workers | None = None,
    ) -> Self:
        """Check an AnnData and align it; it is only read.

        ``caller`` is the user's function, and ``called`` what it calls ``adata`` and ``batch_key``, for messages: a
        ValueError where a key does not exist, the values are unusable, or too few genes are in the vocabulary.
        ``workers``: who reads the cells wherever that is possible part by part.
        """
        groups = contexts(adata, batch_key, name=called[0], argument=called[1])
        xy = coordinates(adata, spatial_key, groups, name=called[0])
        reader = CountsReader(adata, vocabulary, layer=layer, caller=caller, allow_log1p=allow_log1p, workers=workers)
        return cls(reader, groups, xy, adata.obs_names.to_numpy().astype(str), reader)

    @property
    def n_obs(self) -> int:
        """Number of cells."""
        return len(self.names)

    @property
    def workers(self) -> Workers | None:
        """Who reads the cells part by part; this process if `None`."""
        return self.reader.workers

    @property
    def measured(self) -> NDArray[np.int64]:
        """Vocabulary positions of the measured genes, ascending."""
        return self.reader.measured

    @cached_property
    def by_name(self) -> NDArray[np.int64]:
        """Rows in the order of the names of cells: what follows it does not depend on the order of the data.

        Cells of the same name are ordered by their counts, which are read for it.
        """
        order = np.argsort(self.names, kind="stable")
        named = self.names[order]
        again = np.flatnonzero(named[1:] == named[:-1])
        if len(again):
            places = np.union1d(again, again + 1)
            rows = order[places]
            order[places] = rows[np.lexsort((self._weighed(rows), named[places]))]
        return order

    def _weighed(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """A number for every row that is the same for the same counts and hardly ever for others."""
        weights = np.random.default_rng(0).uniform(1, 2, self.read(rows[:1]).shape[1])
        return np.concatenate([block @ weights for block in self.blocks(rows=rows)])

    @cached_property
    def empty(self) -> NDArray[np.bool_]:
        """Which cells express none of the measured genes, (n_obs,)."""
        return np.concatenate([np.zeros(0, dtype=bool), *over_parts(_empty, self.reader)])

    @property
    def own(self) -> CountsReader:
        """What reads the cells over all genes of their data set, known to the model or not.

        Raises `ValueError` if they do not come from one AnnData.
        """
        if self.source is None:
            msg = (
                "The genes of one AnnData are needed, known to the model or not, and these cells are of several. Open "
                "each by itself: Cells.of(adata, model.genes, ...)."
            )
            raise ValueError(msg)
        return self.source

    @property
    def provenance(self) -> dict[str, Any]:
        """State of the values and how genes were matched, for ``uns``."""
        if self.source is None:
            return {}
        return {"values": str(self.source.report.state), "genes": self.source.alignment.report()}

    def summary(self, *also: str) -> str:
        """One line for the log; what else is counted comes after the cells."""
        if self.source is None:
            return ", ".join([f"{self.n_obs:,} cells", *also])
        samples = f" in {len(self.contexts)} contexts" if len(self.contexts) > 1 else ""
        counted = ", ".join([f"{self.n_obs:,} cells{samples}", *also])
        return f"{counted}, {self.source.report.state}; {self.source.alignment.summary()}"

    def read(self, rows: NDArray[np.int64] | None = None) -> sparse.csr_matrix:
        """Counts of some cells over the vocabulary, all if `None`, (n, G) float32."""
        return self.reader.read(np.arange(self.n_obs) if rows is None else rows)

    def blocks(self, size: int = CELLS_PER_BLOCK, rows: NDArray[np.int64] | None = None) -> Iterator[sparse.csr_matrix]:
        """Counts of consecutive blocks of cells."""
        return self.reader.blocks(np.arange(self.n_obs) if rows is None else rows, size)

    def apart(self, rows: NDArray[np.int64]) -> Self:
        """Some of the cells, as they are sent to a worker."""
        reader = self.reader.apart(rows)
        source: Any = reader if self.source is self.reader or self.source is None else self.source.apart(rows)
        return replace(self.take(rows), reader=reader, source=None if self.source is None else source)

    def only(self, genes: NDArray[np.integer]) -> Self:
        """The same cells on a smaller panel, given by vocabulary positions; other genes read as 0."""
        return replace(self, reader=self.reader.only(genes))

    def take(self, rows: NDArray[np.int64]) -> Self:
        """Some of the cells, in this order; contexts keep those of their cells that are left."""
        context, place = (of_cell[rows] for of_cell in self._in_context)
        order = np.lexsort((place, context))
        found, starts = np.unique(context[order], return_index=True)
        kept = [(self.contexts[i].name, here) for i, here in zip(found, np.split(order, starts[1:]), strict=True)]
        return replace(
            self,
            reader=self.reader.take(rows),
            contexts=[Context(name, here) for name, here in kept],
            coordinates={name: self.coordinates[name][place[here]] for name, here in kept if name in self.coordinates},
            names=self.names[rows],
            source=None if self.source is None else self.source.take(rows),
        )

    @cached_property
    def _in_context(self) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Number of the context of every cell and its place there: what `take` costs grows with the cells taken."""
        context, place = np.empty(self.n_obs, dtype=np.int32), np.empty(self.n_obs, dtype=np.int64)
        for number, group in enumerate(self.contexts):
            context[group.rows], place[group.rows] = number, np.arange(len(group.rows))
        return context, place

    def as_one_context(self, name: str = "all") -> Self:
        """The same cells as one context without positions."""
        return replace(self, contexts=[Context(name, np.arange(self.n_obs))], coordinates={})

    def ordered(self) -> Self:
        """The same rows with contexts by name, and the cells within by theirs: the order of the data plays no part."""
        rank = np.empty(self.n_obs, dtype=np.int64)
        rank[self.by_name] = np.arange(self.n_obs)
        order = {context.name: np.argsort(rank[context.rows]) for context in self.contexts}
        groups = sorted(self.contexts, key=lambda context: context.name)
        return replace(
            self,
            contexts=[Context(context.name, context.rows[order[context.name]]) for context in groups],
            coordinates={name: xy[order[name]] for name, xy in self.coordinates.items()},
        )

    def in_memory(self) -> Self:
        """The same with all counts read."""
        return self.with_counts(self.read())

    def with_counts(self, counts: sparse.csr_matrix) -> Self:
        """The same cells with other counts, (n_obs, G)."""
        return replace(self, reader=CountsInMemory(counts, self.measured))

    def followed_by(self, other: Cells, genes: NDArray[np.integer]) -> Self:
        """The cells of two data sets one after the other, over ``genes``; contexts of the same name are one.

        Coordinates of the two are not on one scale, and are left out.
        """
        later = {context.name: context.rows + self.n_obs for context in other.contexts}
        both = [
            Context(context.name, np.concatenate([context.rows, later.pop(context.name, context.rows[:0])]))
            for context in self.contexts
        ]
        return replace(
            self,
            reader=JointReader([self.reader, other.reader], np.asarray(genes, dtype=np.int64)),
            contexts=both + [Context(name, rows) for name, rows in later.items()],
            coordinates={},
            names=np.concatenate([self.names, other.names]),
            source=None,
        )


def _empty(reader: Reader) -> NDArray[np.bool_]:
    blocks = reader.blocks(np.arange(reader.n_obs), CELLS_PER_BLOCK)
    return np.concatenate([np.diff(block.indptr) == 0 for block in blocks])
