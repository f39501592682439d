"""Cells through the small networks on standardised expression, block by block."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch.nn import functional as F
from tqdm.auto import tqdm

from scfoundry._settings import settings
from scfoundry.data.matrix.parts import over_parts
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

__all__ = ["DataMoments", "ExpressionStream", "data_moments", "embed_expression", "score_expression"]

CELLS_PER_STEP = 1024
# Of cells that are not made dense: for each step, the first layer is brought into the order of genes.
SPARSE_CELLS_PER_STEP = 4096


class DataMoments(NamedTuple):
    """What one pass over a data set gathers."""

    expression: GeneMoments  # Moments of the log expression that the networks read
    # Moments of log counts per 10,000, by which principal components are found, and which cells have no counts
    normalised: LogMoments


class ExpressionStream:
    """Cells as z-scores, by the moments of the training data and by those of the data set they are of."""

    def __init__(
        self, module: CellNamerModule, reader: Reader, moments: DataMoments, batch_size: int | None = None
    ) -> None:
        self.module, self.reader, self.moments = module, reader, moments
        self.batch_size = batch_size
        self.measured = measured_genes(module, reader)

    def __iter__(self) -> Iterator[tuple[slice, Tensor]]:
        """Rows of the AnnData and their z-scores, (n, G)."""
        for rows, expression in self._blocks(CELLS_PER_STEP):
            yield rows, self.module.scale(expression, self.measured, self.moments.expression)

    def sparse_scores(self) -> Iterator[tuple[slice, SparseScores]]:
        """The same, never dense."""
        for rows, expression in self._blocks(SPARSE_CELLS_PER_STEP):
            yield rows, self.module.scale.sparse(expression, self.measured, self.moments.expression)

    def _blocks(self, size: int) -> Iterator[tuple[slice, SparseCounts]]:
        bar = tqdm(desc="cellnamer", total=self.reader.n_obs, unit="cell", disable=not settings.show_progress)
        start = 0
        with bar:
            for counts in self.reader.blocks(np.arange(self.reader.n_obs), self.batch_size or size):
                expression = log_expression(self.module, counts, self.measured)
                rows = slice(start, start + expression.n_cells)
                yield rows, expression
                bar.update(expression.n_cells)
                start = rows.stop


def data_moments(module: CellNamerModule, reader: Reader) -> DataMoments:
    """Moments of a data set, in one pass."""
    parts = list(over_parts(_gathered, reader, module))
    return DataMoments(
        GeneMoments.pooled([part.expression for part in parts]), LogMoments.pooled(part.normalised for part in parts)
    )


def _gathered(reader: Reader, module: CellNamerModule) -> DataMoments:
    n_genes, measured = len(module.scale.mean), measured_genes(module, reader)
    moments = DataMoments(GeneMoments(n_genes), LogMoments(n_genes))
    for counts in reader.blocks(np.arange(reader.n_obs), CELLS_PER_STEP):
        moments.expression.update(log_expression(module, counts, measured))
        moments.normalised.update(counts)
    return moments


def measured_genes(module: CellNamerModule, reader: Reader) -> Tensor:
    """Which genes of the vocabulary the data have, (G,) bool."""
    measured = torch.zeros(len(module.scale.mean), dtype=torch.bool, device=module.device)
    measured[torch.from_numpy(reader.measured).to(module.device)] = True
    return measured


def log_expression(module: CellNamerModule, counts: sparse.csr_matrix, measured: Tensor) -> SparseCounts:
    """Log expression that the networks read."""
    return module.scale.log_expression(SparseCounts.from_csr(counts).to(module.device), measured)


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
