"""What a denoiser learns from: counts hidden for a step, and scored by counts hidden for good."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from scfoundry.data.matrix.contexts import unit_coordinates
from scfoundry.data.matrix.log_normalisation import TARGET_SUM
from scfoundry.nn.counts import SparseCounts
from scfoundry.tasks.denoising.expectation import expected_given_detection, gene_rates, hold_out

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray
    from scipy import sparse
    from torch import Tensor

    from scfoundry.data.matrix.cells import Cells
    from scfoundry.data.matrix.contexts import Context
    from scfoundry.tasks.denoising.expectation import Expectation

__all__ = ["HiddenCounts", "Recovery"]

# What a step hides from the encoder, as a share of the entries.
HIDDEN = 0.2
# Published: a tenth of every cell's expressed genes is held out.
HELD_OUT = 0.1
# Cells of a context that are scored after every epoch.
SCORED_CELLS = 1000
CELLS_PER_BLOCK = 512
NEIGHBOR_WEIGHTS = np.linspace(0, 1, 11)
# Added to the counts of a gene before ratios are taken.
PSEUDOCOUNT = 0.5


class HiddenCounts:
    """Counts of cells that are hidden for good, to score what is expected of them.

    ``visible`` and ``hidden`` are the same cells without these counts and with these alone, ``genes`` (g,) the measured
    ones; ``scored`` holds by context the positions of the cells that are scored.
    """

    def __init__(self, cells: Cells, seed: int) -> None:
        order = np.concatenate([context.rows for context in cells.contexts])
        visible, hidden = hold_out(cells.read(order), HELD_OUT, np.random.default_rng(seed))
        back = np.argsort(order)
        self.visible, self.hidden = cells.with_counts(visible[back]), cells.with_counts(hidden[back])
        self.n_hidden = hidden.nnz
        self.genes = torch.from_numpy(cells.measured)
        self.column_of = torch.full((visible.shape[1],), -1)
        self.column_of[self.genes] = torch.arange(len(self.genes))
        rng = np.random.default_rng(seed)
        self.scored = {
            context.name: np.sort(rng.choice(n, min(n, SCORED_CELLS), replace=False))
            for context in cells.contexts
            if (n := len(context.rows))
        }

    def compared(
        self, rows: NDArray[np.int64], shares: Tensor, *, given_detected: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Hidden counts of cells and what is expected of them, in log1p of counts per 10,000."""
        hidden = self.hidden.read(rows).tocoo()
        seen = np.asarray(self.visible.read(rows).sum(1), dtype=np.float32).ravel()
        complete = np.maximum(seen + np.asarray(hidden.sum(1)).ravel(), 1)
        scale = torch.from_numpy(TARGET_SUM / complete)[hidden.row]
        share = shares[hidden.row, self.column_of[hidden.col].numpy()].float().cpu()
        if given_detected:
            expected = scale * expected_given_detection(share * torch.from_numpy(seen[hidden.row]))
        else:
            expected = share * TARGET_SUM
        return (torch.from_numpy(hidden.data) * scale).log1p(), expected.log1p()

    @torch.no_grad()
    def choose_neighbor_weight(
        self, expectations: Iterable[tuple[Context, Expectation]], *, decodes: bool
    ) -> tuple[float, dict[str, float]]:
        """Weight of the nearest cells with the lowest error on the hidden counts, summed over both readings.

        Given what is expected of the visible cells of every context; without a decoder the nearest cells have all the
        weight. Returned with the number of hidden counts that were looked at, and the root mean squared error of the
        mixture, plain and given detection, of the decoder alone and of a count of 1, given detection.
        """
        weights = NEIGHBOR_WEIGHTS if decodes else NEIGHBOR_WEIGHTS[-1:]
        squares, of_one, n_hidden = np.zeros((len(weights), 2)), 0.0, 0
        for context, expectation in expectations:
            scored = self.scored[context.name]
            for block in np.array_split(scored, len(scored) // CELLS_PER_BLOCK + 1):
                rows = context.rows[block]
                nearest = expectation.by_neighbors(block)
                decoded = expectation.by_decoder(block) if decodes else nearest
                for i, weight in enumerate(weights):
                    shares = torch.lerp(decoded, nearest, float(weight))
                    for j in (0, 1):
                        squares[i, j] += _squared(*self.compared(rows, shares, given_detected=bool(j)))
                of_one += _squared(*self.compared(rows, torch.zeros_like(nearest)))
                n_hidden += self.hidden.read(rows).nnz
        best = int(squares.sum(1).argmin())
        errors = {"rmse": squares[best, 0], "rmse_given_detected": squares[best, 1]}
        errors |= {"rmse_given_detected_decoder": squares[0, 1]} if decodes else {}
        errors |= {"rmse_given_detected_count_of_one": of_one}
        found = {name: math.sqrt(value / max(1, n_hidden)) for name, value in errors.items()}
        weight = round(float(weights[best]), 1)
        return weight, {"neighbor_weight": weight, "n_hidden": float(n_hidden)} | found


class Recovery:
    """Recovers counts of cells from a part of them.

    ``log_offset`` is added to the logarithm of the decoder's rates of the measured genes, (g,).
    """

    def __init__(self, model: Any, counts: HiddenCounts) -> None:
        self.model, self.counts, self.visible = model, counts, counts.visible
        self.log_offset = torch.zeros(len(counts.genes))
        self.unit = {name: torch.from_numpy(unit_coordinates(xy)) for name, xy in counts.visible.coordinates.items()}

    @torch.no_grad()
    def start_at_means(self) -> None:
        """Choose the offset so that the decoder's mean profile is that of the data, before anything is learned."""
        self.model.module.eval()
        expected = np.zeros(len(self.log_offset))
        for context in self.visible.contexts:
            for rows, shares in self._scored_shares(context):
                depth = np.asarray(self.visible.read(rows).sum(1))
                expected += (shares.cpu().numpy() * depth).sum(0)
        observed = np.asarray(self.visible.read().sum(0)).ravel()[self.visible.measured]
        expected *= observed.sum() / expected.sum()
        self.log_offset = torch.from_numpy(np.log((observed + PSEUDOCOUNT) / (expected + PSEUDOCOUNT))).float()

    def loss(self, context: Context, n_cells: int) -> dict[str, Tensor]:
        """Loss of some cells of a context in training; error on hidden counts otherwise."""
        if self.model.module.training:
            return {"loss": self._negative_log_likelihood(context, n_cells)}
        errors = [(a - b).square() for a, b in (self.counts.compared(*part) for part in self._scored_shares(context))]
        return {"loss": torch.cat(errors).mean()}

    def _negative_log_likelihood(self, context: Context, n_cells: int) -> Tensor:
        r"""Multinomial, :math:`-\sum_{ij} x_{ij} \log p_{ij} / \sum_{ij} x_{ij}`, of all visible counts.

        The terms that no parameter enters are left out.
        """
        cells = torch.randperm(len(context.rows))[:n_cells].sort().values
        counts = self.visible.read(context.rows[cells.numpy()])
        shown = counts.copy()
        shown.data[(torch.rand(counts.nnz) < HIDDEN).numpy()] = 0
        shown.eliminate_zeros()
        rates = self._rates(self._latent(shown, context, cells))
        target = SparseCounts.from_csr(counts).to(rates.device)
        rows, columns = target.rows, self.counts.column_of.to(rates.device)[target.genes]
        log_shares = rates[rows, columns].log() - rates.sum(1).log()[rows]
        return -(target.values * log_shares).sum() / target.values.sum().clamp(min=1)

    def _scored_shares(self, context: Context) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
        """Rows and the decoder's shares of the cells that are scored, which are a context of their own, in blocks."""
        cells = self.counts.scored[context.name]
        latent = self._latent(self.visible.read(context.rows[cells]), context, torch.from_numpy(cells))
        for start in range(0, len(cells), CELLS_PER_BLOCK):
            block = slice(start, start + CELLS_PER_BLOCK)
            rates = self._rates(latent[block])
            yield context.rows[cells[block]], rates / rates.sum(1, keepdim=True)

    def _latent(self, counts: sparse.csr_matrix, context: Context, cells: Tensor) -> Tensor:
        unit = self.unit.get(context.name)
        return self.model.module.embed(self.model.batch(counts, None if unit is None else unit[cells]))

    def _rates(self, latent: Tensor) -> Tensor:
        device = latent.device
        return gene_rates(self.model, latent, self.counts.genes.to(device), self.log_offset.to(device))


def _squared(truth: Tensor, guess: Tensor) -> float:
    return float((truth - guess).square().sum())
