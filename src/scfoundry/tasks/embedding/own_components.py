"""Principal components of a data set's own genes, which a model need not know, standardised within batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from scfoundry.data.genes import GeneVocabulary
from scfoundry.data.genes.match import own_names
from scfoundry.data.matrix.parts import spans
from scfoundry.stats.components import PrincipalAxes, gathered
from scfoundry.stats.variable_genes import variable_genes
from scfoundry.tasks._fitted import prefixed, under

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from scfoundry.data.matrix.cells import Cells
    from scfoundry.data.matrix.reader import CountsReader

__all__ = ["OwnComponents", "own_genes"]

N_COMPONENTS = 30
CELLS_PER_BLOCK = 4096


def own_genes(source: CountsReader, species: str) -> GeneVocabulary:
    """All genes of a data set by its own names for them, in an order that does not depend on the data's."""
    return GeneVocabulary(own_names(source.alignment.names, species), species=species)


@dataclass(frozen=True, eq=False)
class OwnComponents:
    """Axes, and mean and divisor of every gene in every batch."""

    genes: GeneVocabulary
    axes: PrincipalAxes
    batches: NDArray[np.str_]  # names, ascending, (B,)
    means: NDArray[np.float64]  # (B, g)
    divisors: NDArray[np.float64]  # (B, g)

    @classmethod
    def fit(cls, cells: Cells, genes: GeneVocabulary, shown: NDArray[np.int64] | None = None) -> Self:
        """Axes of cells, their contexts being the batches, by ``genes`` or those at the positions ``shown`` alone."""
        reader = cells.source.over(genes)  # type: ignore[union-attr]
        reader = reader if shown is None else reader.only(shown)
        groups = sorted(cells.contexts, key=lambda context: context.name)
        moments = {part: gathered(part) for part in (reader.take(context.rows) for context in groups)}
        axes = PrincipalAxes.of(moments, N_COMPONENTS, genes=variable_genes(moments))
        means, divisors = zip(*(axes.scale(of_batch) for of_batch in moments.values()), strict=True)
        names = np.array([context.name for context in groups], dtype=str)
        return cls(genes, axes, names, np.stack(means), np.stack(divisors))

    def codes(self, cells: Cells) -> NDArray[np.int64]:
        """Number of the batch of every cell, (n_obs,); with a single batch, that of all cells.

        ValueError: if cells are of a batch that was not there in the fit.
        """
        codes = np.zeros(cells.n_obs, dtype=np.int64)
        if len(self.batches) == 1:
            return codes
        names = self.batches.tolist()
        if unknown := [context.name for context in cells.contexts if context.name not in names]:
            msg = (
                f"Cells of the batches {unknown[:5]} cannot be placed: the fit knows {names[:5]} "
                f"({len(names):,} in all). Name the column that holds these, batch_key=..., or embed cells of new "
                "batches together with those that are known: sf.tl.embed(both, model, batch_key=...)."
            )
            raise ValueError(msg)
        for context in cells.contexts:
            codes[context.rows] = names.index(context.name)
        return codes

    def project(self, cells: Cells, shown: NDArray[np.int64] | None = None) -> NDArray[np.float64]:
        """Scores of cells, (n_obs, k), 0 for those without counts."""
        scores = np.empty((cells.n_obs, self.axes.loadings.shape[1]))
        for rows, part in self.parts(cells, np.arange(cells.n_obs), shown):
            scores[rows] = part
        return scores

    def parts(
        self, cells: Cells, rows: NDArray[np.int64], shown: NDArray[np.int64] | None = None
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64]]]:
        """Some rows after others, and the scores of their cells, (n, k); each is read once, whatever its batch."""
        reader = cells.source.over(self.genes)  # type: ignore[union-attr]
        reader = reader if shown is None else reader.only(shown)
        codes, parts, workers = self.codes(cells), spans(rows, cells.workers), cells.workers
        work: Iterator[NDArray[np.float64]]
        if workers is None:
            work = (_scores((reader.take(here), codes[here]), self) for here in parts)
        else:
            work = workers.map(_scores, ((reader.apart(here), codes[here]) for here in parts), self)
        yield from zip(parts, work, strict=True)

    def arrays(self) -> dict[str, NDArray]:
        """What `from_arrays` makes the same components of."""
        own = {"batches": self.batches, "means": self.means, "divisors": self.divisors}
        return own | {"genes": self.genes.ids.astype(str)} | prefixed("axes_", self.axes.arrays())

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray], species: str) -> Self:
        """Components that were stored."""
        axes = PrincipalAxes.from_arrays(under("axes_", arrays))
        genes = GeneVocabulary(arrays["genes"].tolist(), species=species)
        return cls(genes, axes, arrays["batches"], arrays["means"], arrays["divisors"])


def _scores(part: tuple[CountsReader, NDArray[np.int64]], components: OwnComponents) -> NDArray[np.float64]:
    """Scores of cells of some batches, (n, k)."""
    reader, codes = part
    axes, start = components.axes, 0
    scores = np.zeros((reader.n_obs, axes.loadings.shape[1]))
    for counts in reader.blocks(np.arange(reader.n_obs), CELLS_PER_BLOCK) if scores.size else ():
        of_cell = codes[start : start + counts.shape[0]]
        batch = of_cell[0] if np.all(of_cell == of_cell[0]) else of_cell
        z, empty = axes.z_scores(counts, (components.means[batch], components.divisors[batch]))
        scores[start : start + len(z)] = np.where(empty[:, None], 0, z @ axes.loadings)
        start += len(z)
    return scores
