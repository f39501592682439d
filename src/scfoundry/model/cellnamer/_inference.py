"""Cells through the small networks on standardised expression, block by block."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch.nn import functional as F
from tqdm.auto import tqdm

from scfoundry._settings import settings
from scfoundry.model.cellnamer._expression import GeneMoments
from scfoundry.nn.counts import SparseCounts
from scfoundry.stats.components import LogMoments

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scipy import sparse
    from torch import Tensor

    from scfoundry.data.matrix.reader import Reader
    from scfoundry.model.cellnamer._expression import SparseScores
    from scfoundry.model.cellnamer._module import CellNamerModule, LabelPlan

__all__ = ["DataMoments", "ExpressionStream", "embed_expression", "score_expression"]

CELLS_PER_STEP = 1024


class DataMoments(NamedTuple):
    """What one pass over a data set gathers."""

    expression: GeneMoments  # Moments of the log expression that the networks read
    # Moments of log counts per 10,000, by which principal components are found, and which cells have no counts
    normalised: LogMoments


class ExpressionStream:
    """The cells of an AnnData as z-scores, by the moments of the training data and by their own.

    ``moments``: moments of the same data, if they are known from an earlier pass.
    """

    def __init__(
        self,
        module: CellNamerModule,
        reader: Reader,
        batch_size: int | None = None,
        moments: DataMoments | None = None,
    ) -> None:
        self.module, self.reader = module, reader
        self.size = batch_size or CELLS_PER_STEP
        device = module.device
        self.measured = torch.zeros(len(module.scale.mean), dtype=torch.bool, device=device)
        self.measured[torch.from_numpy(reader.measured).to(device)] = True
        self.moments = self._gathered() if moments is None else moments

    def __iter__(self) -> Iterator[tuple[slice, Tensor]]:
        """Rows of the AnnData and their z-scores, (n, G)."""
        for rows, expression in self._blocks():
            yield rows, self.module.scale(expression, self.measured, self.moments.expression)

    def sparse_scores(self) -> Iterator[tuple[slice, SparseScores]]:
        """The same, never dense."""
        for rows, expression in self._blocks():
            yield rows, self.module.scale.sparse(expression, self.measured, self.moments.expression)

    def _blocks(self) -> Iterator[tuple[slice, SparseCounts]]:
        bar = tqdm(desc="cellnamer", total=self.reader.n_obs, unit="cell", disable=not settings.show_progress)
        start = 0
        with bar:
            for counts in self._counts():
                expression = self._expression(counts)
                rows = slice(start, start + expression.n_cells)
                yield rows, expression
                bar.update(expression.n_cells)
                start = rows.stop

    def _gathered(self) -> DataMoments:
        n_genes = len(self.module.scale.mean)
        moments = DataMoments(GeneMoments(n_genes), LogMoments(n_genes))
        for counts in self._counts():
            moments.expression.update(self._expression(counts))
            moments.normalised.update(counts)
        return moments

    def _counts(self) -> Iterator[sparse.csr_matrix]:
        return self.reader.blocks(np.arange(self.reader.n_obs), self.size)

    def _expression(self, counts: sparse.csr_matrix) -> SparseCounts:
        cells = SparseCounts.from_csr(counts).to(self.module.device)
        return self.module.scale.log_expression(cells, self.measured)


@torch.no_grad()
def embed_expression(module: CellNamerModule, cells: ExpressionStream) -> np.ndarray:
    """Cell embeddings of length 1, (n_obs, Z) float32."""
    latent = np.empty((cells.reader.n_obs, module.config.n_latent), dtype=np.float32)
    for rows, z in cells.sparse_scores():
        latent[rows] = mean_direction(module, z).float().cpu().numpy()
    return latent


@torch.no_grad()
def score_expression(
    module: CellNamerModule, cells: ExpressionStream, plan: LabelPlan
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits of P labels and cosines with them, (n_obs, P) each, and the probability to be none of them, (n_obs,)."""
    shape = (cells.reader.n_obs, len(plan.shares))
    logits, similarity = np.empty(shape, dtype=np.float32), np.empty(shape, dtype=np.float32)
    outside = np.empty(shape[0], dtype=np.float32)
    for rows, z in cells:
        scores = module(z, cells.measured, plan)
        cosine = mean_direction(module, z) @ plan.texts[: shape[1]].T
        logits[rows], outside[rows] = scores.logits.float().cpu().numpy(), scores.outside.float().cpu().numpy()
        similarity[rows] = cosine.float().cpu().numpy()
    return logits, similarity, outside


def mean_direction(module: CellNamerModule, z: Tensor | SparseScores) -> Tensor:
    """Embeddings of cells, (n, Z) of length 1: the mean direction of the members' embeddings."""
    return F.normalize(module.cells.embed(module.cells(z)).mean(0), dim=-1)
