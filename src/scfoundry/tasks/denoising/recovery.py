"""What a denoiser learns from: counts hidden from it for a step, and judged by counts hidden for good."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

import numpy as np
import torch

from scfoundry.data.matrix.checks import require_counts
from scfoundry.data.matrix.contexts import Context, contexts, coordinates
from scfoundry.data.matrix.log_normalisation import TARGET_SUM
from scfoundry.data.matrix.reader import CountsReader
from scfoundry.model.cellplm._positions import unit_coordinates
from scfoundry.nn.counts import SparseCounts
from scfoundry.tasks.denoising.expectation import (
    Expectation,
    expected_given_detection,
    gene_rates,
    hold_out,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from anndata import AnnData
    from numpy.typing import NDArray
    from scipy import sparse
    from torch import Tensor

    from scfoundry._device import Precision
    from scfoundry.model.cellplm._model import CellPLM

__all__ = ["CountsInMemory", "Recovery"]

# What a step hides from the encoder, as a share of the entries.
HIDDEN = 0.2
# Published: a tenth of every cell's expressed genes judges the training.
HELD_OUT = 0.1
# Cells of a context that are judged after every epoch.
JUDGED_CELLS = 1000
CELLS_PER_BLOCK = 512
NEIGHBOR_WEIGHTS = np.linspace(0, 1, 11)
# Added to the counts of a gene before ratios are taken.
PSEUDOCOUNT = 0.5


@dataclass(frozen=True)
class CountsInMemory:
    """Counts of all cells of a data set in a model's gene order; reads as a `CountsReader` does.

    Attributes
    ----------
    counts
        (n_obs, G).
    contexts
        Sorted by name, and so are the cells within: the order of cells in the data plays no part.
    xy
        Context -> coordinates of its cells, in that order.
    genes
        Vocabulary positions of the measured genes, (g,).
    """

    counts: sparse.csr_matrix
    contexts: list[Context]
    xy: Mapping[str, NDArray[np.float32]]
    genes: Tensor

    @classmethod
    def of(
        cls,
        model: CellPLM,
        adata: AnnData,
        *,
        layer: str | None,
        batch_key: str | None,
        spatial_key: str | None,
        caller: str,
    ) -> CountsInMemory:
        """Check an AnnData and read it."""
        require_counts(adata, layer=layer, caller=caller)
        names = adata.obs_names.to_numpy().astype(str)
        groups = [
            Context(context.name, context.rows[np.argsort(names[context.rows], kind="stable")])
            for context in sorted(contexts(adata, batch_key), key=lambda context: context.name)
        ]
        reader = CountsReader(adata, model.genes, layer=layer, caller=caller)
        return cls(
            reader.read(np.arange(adata.n_obs)),
            groups,
            coordinates(adata, spatial_key, groups),
            torch.from_numpy(reader.alignment.measured.astype(np.int64)),
        )

    @property
    def n_obs(self) -> int:
        """Number of cells."""
        return self.counts.shape[0]

    def read(self, rows: NDArray[np.int64]) -> sparse.csr_matrix:
        """Counts of some cells, (len(rows), G)."""
        return self.counts[rows]

    def blocks(self, rows: NDArray[np.int64], block_size: int) -> Iterator[sparse.csr_matrix]:
        """Counts of consecutive blocks of ``rows``."""
        for start in range(0, len(rows), block_size):
            yield self.counts[rows[start : start + block_size]]

    def held_out(self, rng: np.random.Generator) -> tuple[CountsInMemory, CountsInMemory]:
        """The same cells without some of their counts, and these counts alone."""
        order = np.concatenate([context.rows for context in self.contexts])
        back = np.argsort(order)
        visible, hidden = hold_out(self.counts[order], HELD_OUT, rng)
        return replace(self, counts=visible[back]), replace(self, counts=hidden[back])

    def embedded(
        self, model: CellPLM, *, batch_size: int | None = None, device: torch.device, precision: Precision
    ) -> NDArray[np.float32]:
        """Embedding of all cells by a model, (n_obs, Z)."""
        reader = cast("CountsReader", self)
        return model._embed(reader, self.contexts, self.xy, batch_size=batch_size, device=device, precision=precision)

    def expectation(
        self, model: CellPLM, context: Context, latent: NDArray[np.float32], neighbor_weight: float
    ) -> Expectation:
        """What a model expects of the cells of a context, given their embedding."""
        genes = self.genes.to(model.module.device)
        counts = self.counts[context.rows][:, self.genes.numpy()]
        return Expectation(model.module, torch.from_numpy(latent).to(genes.device), counts, genes, neighbor_weight)


class Recovery:
    """Recovers counts of cells from a part of them.

    Parameters
    ----------
    model
        Is changed.
    visible
        Counts to learn from.
    hidden
        Counts of the same cells that were hidden for good.
    seed
        Of the choice of cells that are judged after every epoch.
    """

    def __init__(self, model: CellPLM, visible: CountsInMemory, hidden: CountsInMemory, seed: int) -> None:
        self.model, self.visible, self.hidden = model, visible, hidden
        self.column_of = torch.full((len(model.genes),), -1)
        self.column_of[visible.genes] = torch.arange(len(visible.genes))
        self.unit = {name: unit_coordinates(torch.from_numpy(xy)) for name, xy in visible.xy.items()}
        rng = np.random.default_rng(seed)
        self.judged = {
            context.name: np.sort(rng.choice(n, min(n, JUDGED_CELLS), replace=False))
            for context in visible.contexts
            if (n := len(context.rows))
        }

    @torch.no_grad()
    def start_at_means(self) -> None:
        """Shift the decoder's biases so that its mean profile is that of the data, before anything is learned."""
        module, genes = self.model.module.eval(), self.visible.genes
        expected = np.zeros(len(genes))
        for context in self.visible.contexts:
            for rows, shares in self._judged_shares(context):
                depth = np.asarray(self.visible.counts[rows].sum(1))
                expected += (shares.cpu().numpy() * depth).sum(0)
        observed = np.asarray(self.visible.counts.sum(0)).ravel()[genes.numpy()]
        expected *= observed.sum() / expected.sum()
        ratio = np.log((observed + PSEUDOCOUNT) / (expected + PSEUDOCOUNT))
        module.decoder.mean.bias[genes.to(module.device)] += torch.from_numpy(ratio).to(module.decoder.mean.bias)

    def loss(self, context: Context, n_cells: int) -> dict[str, Tensor]:
        """Loss of some cells of a context in training; error on hidden counts otherwise."""
        if self.model.module.training:
            return {"loss": self._negative_log_likelihood(context, n_cells)}
        errors = [(a - b).square() for a, b in (self.compared(*part) for part in self._judged_shares(context))]
        return {"loss": torch.cat(errors).mean()}

    def _negative_log_likelihood(self, context: Context, n_cells: int) -> Tensor:
        """Multinomial, per count, without the terms that no parameter enters."""
        module = self.model.module
        cells = torch.randperm(len(context.rows))[:n_cells].sort().values
        counts = SparseCounts.from_csr(self.visible.counts[context.rows[cells.numpy()]]).to(module.device)
        hidden = torch.rand(len(counts.values), device=module.device) < HIDDEN
        shown = replace(counts, values=counts.values.masked_fill(hidden, 0.0))
        rates = gene_rates(module, self._latent(shown, context, cells), self.visible.genes.to(module.device))
        rows, columns = counts.rows, self.column_of.to(module.device)[counts.genes]
        log_shares = rates[rows, columns].log() - rates.sum(1).log()[rows]
        return -(counts.values * log_shares).sum() / counts.values.sum().clamp(min=1)

    def _judged_shares(self, context: Context) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
        """Rows and the decoder's shares of the cells that are judged, which are a context of their own, in blocks."""
        module, cells = self.model.module, self.judged[context.name]
        counts = SparseCounts.from_csr(self.visible.counts[context.rows[cells]]).to(module.device)
        latent = self._latent(counts, context, torch.from_numpy(cells))
        for start in range(0, len(cells), CELLS_PER_BLOCK):
            block = slice(start, start + CELLS_PER_BLOCK)
            rates = gene_rates(module, latent[block], self.visible.genes.to(module.device))
            yield context.rows[cells[block]], rates / rates.sum(1, keepdim=True)

    def _latent(self, counts: SparseCounts, context: Context, cells: Tensor) -> Tensor:
        module, unit = self.model.module, self.unit.get(context.name)
        expression = counts.log_normalised(self.model.config.library_size)
        return module.latent.embedding(
            module.encode(expression, None if unit is None else unit[cells].to(module.device))
        )

    def compared(
        self, rows: NDArray[np.int64], shares: Tensor, *, given_detected: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Hidden counts of cells and what is expected of them, in log1p of counts per 10,000."""
        hidden = self.hidden.counts[rows].tocoo()
        seen = np.asarray(self.visible.counts[rows].sum(1), dtype=np.float32).ravel()
        complete = np.maximum(seen + np.asarray(hidden.sum(1)).ravel(), 1)
        scale = torch.from_numpy(TARGET_SUM / complete)[hidden.row]
        share = shares[hidden.row, self.column_of[hidden.col].numpy()].float().cpu()
        if given_detected:
            expected = scale * expected_given_detection(share * torch.from_numpy(seen[hidden.row]))
        else:
            expected = share * TARGET_SUM
        return (torch.from_numpy(hidden.data) * scale).log1p(), expected.log1p()

    @torch.no_grad()
    def choose_neighbor_weight(self, device: torch.device, precision: Precision) -> tuple[float, dict[str, float]]:
        """Weight of the nearest cells with the lowest error on the hidden counts, summed over both readings.

        Returns
        -------
        The weight, and what was found: the number of hidden counts that were looked at, and the root mean squared error
        of the mixture, plain and given detection, of the decoder alone and of a count of 1, given detection.
        """
        cells, model = self.visible, self.model
        latent = cells.embedded(model, device=device, precision=precision)
        squares, of_one, n_hidden = np.zeros((len(NEIGHBOR_WEIGHTS), 2)), 0.0, 0
        for context in cells.contexts:
            expectation = cells.expectation(model, context, latent[context.rows], 0.0)
            judged = self.judged[context.name]
            for block in np.array_split(judged, len(judged) // CELLS_PER_BLOCK + 1):
                rows = context.rows[block]
                decoded, nearest = expectation.by_decoder(block), expectation.by_neighbors(block)
                for i, weight in enumerate(NEIGHBOR_WEIGHTS):
                    shares = torch.lerp(decoded, nearest, float(weight))
                    for j in (0, 1):
                        squares[i, j] += _squared(*self.compared(rows, shares, given_detected=bool(j)))
                of_one += _squared(*self.compared(rows, torch.zeros_like(decoded)))
                n_hidden += self.hidden.counts[rows].nnz
        best = int(squares.sum(1).argmin())
        errors = {
            "rmse": squares[best, 0],
            "rmse_given_detected": squares[best, 1],
            "rmse_given_detected_decoder": squares[0, 1],
            "rmse_given_detected_count_of_one": of_one,
        }
        found = {name: math.sqrt(value / max(1, n_hidden)) for name, value in errors.items()}
        weight = round(float(NEIGHBOR_WEIGHTS[best]), 1)
        return weight, {"neighbor_weight": weight, "n_hidden": float(n_hidden)} | found


def _squared(truth: Tensor, guess: Tensor) -> float:
    return float((truth - guess).square().sum())
