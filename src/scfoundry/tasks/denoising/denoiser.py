"""Denoising: a CellPLM's decoder fine-tuned on the counts at hand, judged by counts hidden from it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Self, cast

import numpy as np
import torch

from scfoundry._device import Compute, resolve_device
from scfoundry._said_once import said_once
from scfoundry.data.matrix.loaders import row_blocks
from scfoundry.model.cellplm._decoder import require_expected_counts
from scfoundry.tasks.denoising.expectation import expected_given_detection
from scfoundry.tasks.denoising.recovery import CountsInMemory, Recovery
from scfoundry.train.contexts import fine_tune

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from numpy.typing import NDArray

    from scfoundry._device import Precision
    from scfoundry.model.cellplm._model import CellPLM

__all__ = ["RecoversCounts"]

PARTS = ("embedder", "layers", "norm", "latent", "decoder")
LR = 1e-3
DECODER_LR = 2e-3
WARMUP_STEPS = 20
# Small steps, and many: a step costs as much as its cells.
MAX_CELLS_PER_STEP, MIN_CELLS_PER_STEP, MIN_STEPS_PER_EPOCH = 128, 32, 6
N_STEPS = 1200
MAX_EPOCHS = 150
CELLS_PER_BLOCK = 512


class RecoversCounts:
    """The part of `CellPLM` that `sf.tl.denoise` uses."""

    validation_: dict[str, float] | None = None
    """What `fit_denoiser` found on the counts it hid."""

    @said_once()
    def fit_denoiser(
        self,
        adata: AnnData,
        *,
        layer: str | None = None,
        batch_key: str | None = None,
        spatial_key: str | None = None,
        max_epochs: int | None = None,
        patience: int = 20,
        seed: int = 0,
        device: str = "auto",
        precision: Precision = "auto",
    ) -> Self:
        r"""Learn the expected counts of a data set, in a copy of this model.

        A tenth of every cell's expressed genes is hidden for good, low counts more often, as in
        `sf.pp.simulate_dropout`. On the rest the whole model learns to recover counts from a part of them: every step
        hides a fifth of the entries from the encoder, and the decoder's shares :math:`p_{ij}` of genes in a cell raise
        the multinomial likelihood :math:`\sum_{ij} x_{ij} \log p_{ij}` of all counts that are not hidden for good.
        The weights with the lowest error on the hidden counts stay (mean squared error of log1p counts per 10,000,
        given detection). That error and the one of the plain expectation together decide how much the mean of the
        nearest cells in the latent is worth beside the decoder.

        Parameters
        ----------
        adata
            Cells with raw counts; it is only read. Counts are held in memory, sparse.
        layer
            Layer with the counts, ``X`` if `None`.
        batch_key, spatial_key
            As in `get_latent_representation`.
        max_epochs
            Most passes over the cells; as many as make about 1,200 steps if `None`.
        patience
            Epochs without a lower error on the hidden counts before training stops.
        seed
            Of everything random.
        device, precision
            As in `get_latent_representation`.

        Returns
        -------
        The copy. Its `denoise` gives expected counts, its ``validation_`` what was found on the hidden counts; it is
        saved and loaded as any model.

        Raises
        ------
        ValueError
            If the values are not raw counts, too few genes are known, or no cell has enough expressed genes.
        """
        model = cast("CellPLM", self).copy(neighbor_weight=0.0)
        require_expected_counts(model)
        cells = CountsInMemory.of(
            model,
            adata,
            layer=layer,
            batch_key=batch_key,
            spatial_key=spatial_key,
            caller="CellPLM.fit_denoiser",
        )
        torch_device = resolve_device(device)
        model.module.to(torch_device)
        visible, hidden = cells.held_out(np.random.default_rng(seed))
        if not hidden.counts.nnz:
            msg = (
                f"None of the {adata.n_obs:,} cells expresses enough genes of the model to hide some of them, so that "
                "nothing can tell how good a fit is. Denoise without one: sf.tl.denoise(adata, fine_tune=False)."
            )
            raise ValueError(msg)
        task = Recovery(model, visible, hidden, seed)
        task.start_at_means()
        size = min(MAX_CELLS_PER_STEP, max(MIN_CELLS_PER_STEP, cells.n_obs // MIN_STEPS_PER_EPOCH))
        steps_per_epoch = sum(math.ceil(len(context.rows) / size) for context in cells.contexts)
        fine_tune(
            model,
            cells.contexts,
            lambda context, step: task.loss(context, size),
            parts=PARTS,
            max_epochs=min(MAX_EPOCHS, math.ceil(N_STEPS / steps_per_epoch)) if max_epochs is None else max_epochs,
            lr=LR,
            part_lrs={"decoder": DECODER_LR},
            warmup_steps=WARMUP_STEPS,
            schedule="cosine",
            patience=patience,
            cells_per_step=size,
            seed=seed,
            compute=Compute(torch_device, precision),
        )
        weight, found = task.choose_neighbor_weight(torch_device, precision)
        model.validation_ = found | {"epochs": float(len(model.history["loss_validation"]))}
        model._change_config(neighbor_weight=weight)
        return cast("Self", model)

    @said_once()
    def denoise(
        self,
        adata: AnnData,
        *,
        columns: Sequence[int] | NDArray[np.int64] | None = None,
        given_detected: bool = False,
        layer: str | None = None,
        batch_key: str | None = None,
        spatial_key: str | None = None,
        batch_size: int | None = None,
        device: str = "auto",
        precision: Precision = "auto",
    ) -> NDArray[np.float32]:
        """Expected counts of every cell, at its own depth.

        A cell's expected counts of the genes that the model knows sum to its observed counts of these genes. Columns
        of one and the same gene share its expectation in equal parts. Columns that the model does not know keep their
        observed counts, and cells without counts stay empty.

        Parameters
        ----------
        adata
            Cells with raw counts; it is only read.
        columns
            Columns of ``adata`` to return; all if `None`.
        given_detected
            Expected counts if the gene is detected in the cell, at least 1 in cells with counts, instead of plain
            ones: Poisson around the plain ones, without zero.
        layer, batch_key, spatial_key, batch_size, device, precision
            As in `get_latent_representation`.

        Returns
        -------
        float32 array, (n_obs, len(columns)).

        Raises
        ------
        ValueError
            If the values are not raw counts, too few genes are known, or a key does not exist.
        """
        model = cast("CellPLM", self)
        require_expected_counts(model)
        cells = CountsInMemory.of(
            model, adata, layer=layer, batch_key=batch_key, spatial_key=spatial_key, caller="CellPLM.denoise"
        )
        torch_device = resolve_device(device)
        latent = cells.embedded(model, batch_size=batch_size, device=torch_device, precision=precision)
        target = model.genes.align(adata).target
        wanted = np.arange(adata.n_vars) if columns is None else np.asarray(columns, dtype=np.int64)
        known = np.flatnonzero(target[wanted] >= 0)
        place = torch.from_numpy(np.searchsorted(cells.genes.numpy(), target[wanted[known]])).to(torch_device)
        copies = np.bincount(target[target >= 0], minlength=len(model.genes))[target[wanted[known]]]
        parts = torch.from_numpy(copies).to(torch_device, torch.float32)

        out = np.empty((adata.n_obs, len(wanted)), dtype=np.float32)
        for context in cells.contexts:
            expectation = cells.expectation(model, context, latent[context.rows], model.config.neighbor_weight)
            totals = np.asarray(cells.counts[context.rows].sum(1)).ravel()
            for start in range(0, len(context.rows), CELLS_PER_BLOCK):
                some = np.arange(start, min(start + CELLS_PER_BLOCK, len(context.rows)))
                depth = torch.from_numpy(totals[some]).to(torch_device)[:, None]
                expected = expectation.shares(some).mul_(depth)[:, place]
                expected = expected_given_detection(expected) * (depth > 0) if given_detected else expected / parts
                out[context.rows[some][:, None], known] = expected.cpu().numpy()
        unknown = np.flatnonzero(target[wanted] < 0)
        if len(unknown):
            for rows, block in row_blocks(adata, layer=layer):
                out[rows, unknown] = block[:, wanted[unknown]].toarray()
        return out
