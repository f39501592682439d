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

    from scfoundry.data.matrix.reader import CountsReader
    from scfoundry.model.cellnamer._module import CellTypeScorer, LabelPlan

__all__ = ["DataMoments", "ExpressionStream", "embed_expression", "score_expression"]

CELLS_PER_STEP = 1024


class DataMoments(NamedTuple):
    """What one pass over a data set gathers.

    Attributes
    ----------
    expression
        Moments of the scorer's log expression.
    normalised
        Moments of log counts per 10,000, by which principal components are found, and which cells have no counts.
    """

    expression: GeneMoments
    normalised: LogMoments


class ExpressionStream:
    """The cells of an AnnData as z-scores, by the moments of the training data and by their own.

    Parameters
    ----------
    scorer
        Holds the moments of the training data; on the device where blocks are wanted.
    reader
        Checked and aligned data.
    batch_size
        Cells per block.
    moments
        Moments of the same data, if they are known from an earlier pass.
    """

    def __init__(
        self,
        scorer: CellTypeScorer,
        reader: CountsReader,
        batch_size: int | None = None,
        moments: DataMoments | None = None,
    ) -> None:
        if batch_size is not None and batch_size < 1:
            msg = f"batch_size must be at least 1 cell; got {batch_size}."
            raise ValueError(msg)
        self.scorer, self.reader = scorer, reader
        self.size = batch_size or CELLS_PER_STEP
        device = scorer.device
        self.measured = torch.zeros(len(scorer.scale.mean), dtype=torch.bool, device=device)
        self.measured[torch.from_numpy(reader.measured).to(device)] = True
        self.moments = self._gathered() if moments is None else moments

    def __iter__(self) -> Iterator[tuple[slice, Tensor]]:
        """Rows of the AnnData and their z-scores, (n, G)."""
        bar = tqdm(desc="langcell", total=self.reader.n_obs, unit="cell", disable=not settings.show_progress)
        start = 0
        with bar:
            for counts in self._counts():
                expression = self._expression(counts)
                rows = slice(start, start + len(expression))
                yield rows, self.scorer.scale(expression, self.measured, self.moments.expression)
                bar.update(len(expression))
                start = rows.stop

    def _gathered(self) -> DataMoments:
        n_genes = len(self.scorer.scale.mean)
        moments = DataMoments(GeneMoments(n_genes), LogMoments(n_genes))
        for counts in self._counts():
            moments.expression.update(self._expression(counts))
            moments.normalised.update(counts)
        return moments

    def _counts(self) -> Iterator[sparse.csr_matrix]:
        return self.reader.blocks(np.arange(self.reader.n_obs), self.size)

    def _expression(self, counts: sparse.csr_matrix) -> Tensor:
        cells = SparseCounts.from_csr(counts).to(self.scorer.device)
        return self.scorer.scale.log_expression(cells, self.measured)


@torch.no_grad()
def embed_expression(scorer: CellTypeScorer, cells: ExpressionStream) -> np.ndarray:
    """Cell embeddings of length 1, (n_obs, Z) float32."""
    latent = np.empty((cells.reader.n_obs, scorer.config.n_latent), dtype=np.float32)
    for rows, z in cells:
        latent[rows] = mean_direction(scorer, z).float().cpu().numpy()
    return latent


@torch.no_grad()
def score_expression(
    scorer: CellTypeScorer, cells: ExpressionStream, plan: LabelPlan
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits of P labels and cosines with them, (n_obs, P) each, and the probability to be none of them, (n_obs,)."""
    shape = (cells.reader.n_obs, len(plan.shares))
    logits, similarity = np.empty(shape, dtype=np.float32), np.empty(shape, dtype=np.float32)
    outside = np.empty(shape[0], dtype=np.float32)
    for rows, z in cells:
        scores = scorer(z, cells.measured, plan)
        cosine = mean_direction(scorer, z) @ plan.texts[: shape[1]].T
        logits[rows], outside[rows] = scores.logits.float().cpu().numpy(), scores.outside.float().cpu().numpy()
        similarity[rows] = cosine.float().cpu().numpy()
    return logits, similarity, outside


def mean_direction(scorer: CellTypeScorer, z: Tensor) -> Tensor:
    """Embeddings of cells, (n, Z) of length 1: the mean direction of the members' embeddings."""
    return F.normalize(scorer.cells.embed(scorer.cells(z)).mean(0), dim=-1)
