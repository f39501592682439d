"""Denoising: a decoder fine-tuned on the counts at hand, the nearest cells, and a weight between the two."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from scipy import sparse

from scfoundry.model._capabilities import PredictsRates, ReconstructsExpression, Tunable, can
from scfoundry.model._parts import computed, joined
from scfoundry.tasks._fitted import Fitted
from scfoundry.tasks.denoising.expectation import (
    Expectation,
    expected_given_detection,
    gene_rates,
    reconstructed_rates,
)
from scfoundry.tasks.denoising.recovery import HiddenCounts, Recovery

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from scfoundry._device import Compute
    from scfoundry.data.matrix.cells import Cells
    from scfoundry.data.matrix.contexts import Context

__all__ = ["Denoiser"]

LR = 1e-3
DECODER_LR = 2e-3
WARMUP_STEPS = 20
# Small steps, and many: a step costs as much as its cells.
MAX_CELLS_PER_STEP, MIN_CELLS_PER_STEP, MIN_STEPS_PER_EPOCH = 128, 32, 6
N_STEPS = 1200
MAX_EPOCHS = 150
CELLS_PER_BLOCK = 512
METHODS = {0.0: "decoder", 1.0: "neighbours"}


@dataclass(frozen=True, eq=False)
class Denoiser(Fitted):
    """Expected counts of cells, learned from counts.

    Attributes
    ----------
    model
        What embeds cells and, where it can, predicts rates: a fine-tuned copy.
    neighbor_weight
        Weight of the mean of the nearest cells; the decoder has the rest.
    log_offset
        Added to the logarithm of the decoder's rates, (G,).
    validation
        What was found on the counts that were hidden while fitting; empty if nothing was learned.

    Examples
    --------
    >>> import scfoundry as sf
    >>> denoiser = sf.tl.denoise(adata, layer="counts", return_fitted=True)  # doctest: +SKIP
    >>> denoiser.save("my_denoiser")  # doctest: +SKIP
    >>> sf.tl.denoise(more_cells, "my_denoiser", layer="counts")  # doctest: +SKIP
    """

    model: Any
    neighbor_weight: float
    log_offset: NDArray[np.float32] = field(repr=False)
    validation: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def as_pretrained(cls, model: Any) -> Self:
        """Ask the decoder alone, as it is, or the nearest cells where the model has none."""
        return cls(model, 0.0 if _decodes(model) else 1.0, np.zeros(len(model.genes), dtype=np.float32))

    @classmethod
    def fit(
        cls,
        model: Any,
        cells: Cells,
        *,
        max_epochs: int | None = None,
        patience: int = 20,
        seed: int = 0,
        compute: Compute,
    ) -> Self:
        """Learn the expected counts of cells, in a copy of the model.

        A model that cannot be fine-tuned through a decoder of its embedding stays as it is, though it may reconstruct
        expression. Of one that does neither, the nearest cells in its embedding alone say what is expected.

        Parameters
        ----------
        model
            Embeds cells.
        cells
            Raw counts; they are held in memory, sparse.
        max_epochs
            Most passes over the cells; as many as make about 1,200 steps if `None`.
        patience
            Epochs without a lower error on the hidden counts before training stops.
        seed
            Of everything random.
        compute
            Where and how precisely.

        Raises
        ------
        ValueError
            If no cell has enough expressed genes.
        """
        counts = HiddenCounts(cells.in_memory().ordered(), seed)
        if not counts.n_hidden:
            msg = (
                f"None of the {cells.n_obs:,} cells expresses enough genes of the model to hide some of them, so that "
                "nothing can tell how good a fit is. Denoise without one: sf.tl.denoise(adata, fine_tune=False)."
            )
            raise ValueError(msg)
        learned, epochs = cls.as_pretrained(model), {}
        if can(model, PredictsRates) and can(model, Tunable):
            learned = cls._fine_tuned(model, counts, max_epochs, patience, seed, compute)
            epochs = {"epochs": float(len(learned.model.history_["loss_validation"]))}
        found = learned._expectations(counts.visible, compute)
        weight, scores = counts.choose_neighbor_weight(found, decodes=_decodes(model))
        return cls(learned.model, weight, learned.log_offset, scores | epochs)

    @classmethod
    def _fine_tuned(
        cls, model: Any, counts: HiddenCounts, max_epochs: int | None, patience: int, seed: int, compute: Compute
    ) -> Self:
        """Copy of a model whose decoder recovers counts."""
        model, contexts = model.copy(), counts.visible.contexts
        model.module.to(compute.device)
        task = Recovery(model, counts)
        task.start_at_means()
        size = min(MAX_CELLS_PER_STEP, max(MIN_CELLS_PER_STEP, counts.visible.n_obs // MIN_STEPS_PER_EPOCH))
        steps_per_epoch = sum(math.ceil(len(context.rows) / size) for context in contexts)
        decoder = [name for name, part in model.module.named_modules() if part is model.decoder]
        from scfoundry.train.contexts import fine_tune

        fine_tune(
            model,
            contexts,
            lambda context, step: task.loss(context, size),
            parts=[name for name, _ in model.module.named_children()],
            max_epochs=min(MAX_EPOCHS, math.ceil(N_STEPS / steps_per_epoch)) if max_epochs is None else max_epochs,
            lr=LR,
            part_lrs=dict.fromkeys(decoder, DECODER_LR),
            warmup_steps=WARMUP_STEPS,
            schedule="cosine",
            patience=patience,
            cells_per_step=size,
            seed=seed,
            compute=compute,
        )
        log_offset = np.zeros(len(model.genes), dtype=np.float32)
        log_offset[counts.visible.measured] = task.log_offset.numpy()
        return cls(model, 0.0, log_offset)

    @property
    def method(self) -> str:
        """What the expectation is made of, for the record."""
        return METHODS.get(self.neighbor_weight, "decoder and neighbours")

    def predict(
        self,
        cells: Cells,
        *,
        columns: Sequence[int] | NDArray[np.int64] | None = None,
        given_detected: bool = False,
        compute: Compute,
    ) -> NDArray[np.float32]:
        """Expected counts of every cell, at its own depth, float32, (n_obs, len(columns)).

        A cell's expected counts of the genes that the model knows sum to its observed counts of these genes. Columns
        of one and the same gene share its expectation in equal parts. Of columns that the model does not know, the
        nearest cells alone tell. Cells without counts of genes that it knows stay empty.

        Parameters
        ----------
        cells
            Raw counts of one AnnData.
        columns
            Columns of the AnnData to return; all if `None`.
        given_detected
            Expected counts if the gene is detected in the cell, at least 1 in cells with counts, instead of plain
            ones.
        compute
            Where and how precisely.

        Raises
        ------
        ValueError
            If the cells are those of several AnnData, whose columns differ.
        """
        if cells.workers is not None:
            contexts = [context.rows for context in cells.contexts]
            how: dict[str, Any] = {"columns": columns, "given_detected": given_detected, "compute": compute}
            return joined(computed(self, "predict", cells, contexts, **how), cells.n_obs)
        target = cells.own.alignment.target
        wanted = np.arange(len(target)) if columns is None else np.asarray(columns, dtype=np.int64)
        is_known = np.isin(target[wanted], cells.measured)
        known, unknown = target[wanted[is_known]], wanted[~is_known]
        position, copies = np.empty(len(wanted), dtype=np.int64), np.ones(len(wanted), dtype=np.float32)
        position[is_known] = np.searchsorted(cells.measured, known)
        position[~is_known] = len(cells.measured) + np.arange(len(unknown))
        copies[is_known] = np.bincount(target[target >= 0], minlength=len(self.model.genes))[known]
        place, parts = (torch.from_numpy(of_columns).to(compute.device) for of_columns in (position, copies))
        others = cells.own.own_columns(unknown) if len(unknown) else None

        out = np.empty((cells.n_obs, len(wanted)), dtype=np.float32)
        for context, expectation in self._expectations(cells.ordered(), compute, others):
            for start in range(0, len(context.rows), CELLS_PER_BLOCK):
                some = np.arange(start, min(start + CELLS_PER_BLOCK, len(context.rows)))
                depth = torch.from_numpy(expectation.totals[some]).to(compute.device)[:, None]
                expected = (expectation.shares(some) * depth)[:, place]
                expected = expected_given_detection(expected) * (depth > 0) if given_detected else expected / parts
                out[context.rows[some]] = expected.cpu().numpy()
        return out

    def _expectations(
        self, cells: Cells, compute: Compute, others: sparse.csr_matrix | None = None
    ) -> Iterator[tuple[Context, Expectation]]:
        """What is expected of the cells of every context; ``others`` are counts of genes not known to the model."""
        latent, totals = self.model.embed(cells, compute), _totals(cells)
        n_others = 0 if others is None else others.shape[1]
        for context in cells.contexts:
            of_context = torch.from_numpy(latent[context.rows]).to(compute.device)
            rates = self._rates(of_context, cells, context.rows, compute)
            read = partial(_read, cells, context.rows, others)
            how = (len(cells.measured), self.neighbor_weight, rates)
            yield context, Expectation(of_context, totals[context.rows], read, *how, n_others=n_others)

    def _rates(
        self, latent: Tensor, cells: Cells, rows: NDArray[np.int64], compute: Compute
    ) -> Callable[[NDArray[np.int64]], Tensor] | None:
        """What gives rates of the measured genes for some cells of a context, by their embedding or by their counts."""
        measured = cells.measured
        if can(self.model, PredictsRates):
            genes = torch.from_numpy(measured)
            how = {"genes": genes.to(compute.device), "log_offset": torch.from_numpy(self.log_offset)[genes]}
            how["log_offset"] = how["log_offset"].to(compute.device)
            return lambda some: gene_rates(self.model, latent[torch.from_numpy(some)], **how)
        if can(self.model, ReconstructsExpression):
            return lambda some: reconstructed_rates(self.model, cells.read(rows[some]), measured, compute)
        return None

    def _stored(self) -> tuple[dict[str, NDArray], dict[str, Any]]:
        values = {"neighbor_weight": self.neighbor_weight, "validation": dict(self.validation)}
        return {"log_offset": self.log_offset}, values

    @classmethod
    def _restored(cls, model: Any, arrays: Mapping[str, NDArray], values: Mapping[str, Any]) -> Self:
        return cls(model, values["neighbor_weight"], arrays["log_offset"], values["validation"])


def _decodes(model: Any) -> bool:
    """Whether a model says itself what is expected of a cell."""
    return can(model, PredictsRates) or can(model, ReconstructsExpression)


def _totals(cells: Cells) -> NDArray[np.float32]:
    """Counts of every cell, (n_obs,), read block by block."""
    blocks = [np.asarray(counts.sum(1), dtype=np.float32).ravel() for counts in cells.blocks()]
    return np.concatenate(blocks) if blocks else np.zeros(0, dtype=np.float32)


def _read(
    cells: Cells, rows: NDArray[np.int64], others: sparse.csr_matrix | None, some: NDArray[np.int64]
) -> sparse.csr_matrix:
    """Counts of some cells of a context, (m,) of its rows, over measured genes and ``others``, (m, g + h)."""
    counts = cells.read(rows[some])[:, cells.measured]
    return counts if others is None else sparse.hstack([counts, others[rows[some]]], format="csr")
