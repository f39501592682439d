"""CellPLM for AnnData: setup, training, embedding, weights."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch

from scfoundry._arguments import checks_arguments
from scfoundry.model._base import InferenceModel
from scfoundry.model._capabilities import FineTunesImputation, PredictsRates
from scfoundry.model._pretrained import CELLPLM_DATA, CELLPLM_PAPER
from scfoundry.model.cellplm._cell_attention import stream_factors
from scfoundry.model.cellplm._checkpoint import from_released, read_release
from scfoundry.model.cellplm._config import CellPLMConfig
from scfoundry.model.cellplm._contexts import embed_contexts
from scfoundry.model.cellplm._module import CellPLMModule
from scfoundry.model.cellplm._objectives import keep_cells, pretraining_loss
from scfoundry.model.cellplm._replaced_genes import replaced_gene_shifts
from scfoundry.model.cellplm._samples import ContextBatch, ContextReader, check_training
from scfoundry.nn.checkpoint import sha256
from scfoundry.nn.counts import SparseCounts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from anndata import AnnData
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix
    from torch import Tensor

    from scfoundry._device import Compute
    from scfoundry.data.matrix.cells import Cells
    from scfoundry.data.matrix.contexts import Context
    from scfoundry.model.cellplm._decoder import Decoder
    from scfoundry.model.cellplm._fine_tune_perturbation import Head
    from scfoundry.nn.attention_factors import AttentionFactors
    from scfoundry.train.plan import Schedule

__all__ = ["CellPLM"]


class CellPLM(InferenceModel):
    r"""Cells are tokens, a tissue is a sentence :cite:p:`wen2024cellplm`.

    A cell enters as the sum of its genes' vectors weighted by log expression. A transformer whose attention is linear
    in the number of cells (Flow-Attention) lets all cells of a sample inform each other; the mean of a Gaussian (or
    Gaussian mixture) posterior is the cell's embedding, and a negative binomial decoder returns expected counts.

    The embedding of a cell depends on the set of cells in its context, the sample named by ``batch_key``; not on the
    order of cells or genes, nor on how a context is cut into chunks.

    Parameters
    ----------
    adata
        Training data registered with `setup_anndata`. Inference needs none.
    registry
        Filled in by `load`.
    genes
        Vocabulary, or its Ensembl ids in order; the genes of ``adata`` if `None`.
    seed
        Seed of the initial weights.
    **config
        Values of `sf.model.CellPLMConfig`.

    Examples
    --------
    >>> import scfoundry as sf
    >>> model = sf.model.CellPLM.from_pretrained("cellplm-mini")
    >>> latent = model.get_latent_representation(adata)

    Or on your own samples:

    >>> sf.model.CellPLM.setup_anndata(adata, layer="counts", batch_key="sample")
    >>> model = sf.model.CellPLM(adata, n_hidden=128, n_latent=32)
    >>> model.train(max_epochs=20)
    """

    name = "cellplm"
    citation = CELLPLM_PAPER
    _config_cls = CellPLMConfig
    _module_cls = CellPLMModule

    config: CellPLMConfig
    module: CellPLMModule

    @classmethod
    @checks_arguments
    def setup_anndata(
        cls,
        adata: AnnData,
        layer: str | None = None,
        batch_key: str | None = None,
        spatial_key: str | None = None,
        labels_key: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Register training data.

        Parameters
        ----------
        adata
            Cells x genes with raw counts.
        layer
            Layer with the counts, ``X`` if `None`.
        batch_key
            Column of ``obs`` with the sample, section or field of view, each a context; one of all cells if `None`.
        spatial_key
            Key of ``obsm`` with coordinates.
        labels_key
            Column of ``obs`` with cell types, for supervised fine-tuning.
        """
        setup_args = dict(locals())
        columns = {"batch": batch_key, "labels": labels_key}
        cls._register(adata, setup_args, columns, spatial_key=spatial_key, **kwargs)

    def _complete_config(self, config: dict[str, Any]) -> dict[str, Any]:
        # Weights from elsewhere bring their own tables. Saved: a loaded model is given its number of batches, too.
        self.knows_batches_ = "n_batches" not in config and self.summary_stats.get("n_batch", 1) > 1
        return config | {"n_batches": self.summary_stats["n_batch"]} if self.knows_batches_ else config

    # ---- embedding ---------------------------------------------------------------------------------------------

    def embed(self, cells: Cells, compute: Compute, *, rng: int | np.random.Generator | None = 0) -> np.ndarray:
        """Embed cells: the posterior mean, in the context of all cells of their sample, float32, (n_obs, n_latent).

        ``rng`` is the seed of the noise, which only ``latent_embedding="gumbel"`` has; then workers are left alone.
        """
        latent = np.empty((cells.n_obs, self.config.n_latent), dtype=np.float32)
        noise = torch.Generator().manual_seed(int(np.random.default_rng(rng).integers(1 << 62)))
        for rows, part in embed_contexts(self, cells, cells.contexts, compute, noise):
            latent[rows] = part
        return latent

    def embed_parts(
        self, cells: Cells, compute: Compute, wanted: NDArray[np.bool_]
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """The same for contexts of which some cells are ``wanted``, (n_obs,): rows, and embeddings, chunk by chunk."""
        contexts = [context for context in cells.contexts if wanted[context.rows].any()]
        if self.config.latent_embedding == "gumbel":
            yield np.arange(cells.n_obs), self.embed(cells, compute)  # the noise of a cell follows from those before
        else:
            yield from embed_contexts(self, cells, contexts, compute)

    @property
    def reads_positions(self) -> bool:  # type: ignore[override]
        """Whether coordinates of cells change the embedding."""
        return self.config.positions != "none"

    @property
    def n_layers(self) -> int:
        """Layers in which cells attend to each other."""
        return self.config.n_layers

    def attention_factors(
        self, cells: Cells, layer: int, compute: Compute
    ) -> Iterator[tuple[NDArray[np.int64], Iterator[AttentionFactors]]]:
        """For every context its rows, and factors of the weights of a layer, chunk by chunk; see `AttendsToCells`."""
        self.module.to(compute.device).eval()
        reader, depth = ContextReader(cells.reader, cells.coordinates), range(self.n_layers)[layer]
        for context in cells.contexts:
            n_cells, chunks = len(context.rows), reader.chunks(context, compute.cells_at_once)
            yield context.rows, stream_factors(self.module, chunks, n_cells, depth=depth, device=compute.device)

    def gene_vectors(self) -> np.ndarray:
        """Vectors of the vocabulary's genes, float32, (G, n_hidden)."""
        return self.module.embedder.genes.detach().float().cpu().numpy()

    @property
    def decoder(self) -> Decoder:
        """What maps a latent to rates."""
        return self.module.decoder

    def expected_rates(self, latent: Tensor, genes: Tensor | None = None) -> Tensor:
        """Unscaled expected counts by the decoder for cells of an unknown batch, (n, g), with gradient."""
        # Half precision would round rates by a percent.
        with torch.autocast(latent.device.type, enabled=False):
            return self.module.decoder(latent.float(), genes=genes)[0]

    def lacks(self, capability: type) -> str | None:
        """Why these weights cannot do what others can."""
        if capability in (PredictsRates, FineTunesImputation) and self.config.likelihood != "nb":
            return (
                f"The decoder of {self.provenance['weights']!r} was trained on log expression "
                f'(likelihood="{self.config.likelihood}") and has no expected counts.'
            )
        return None

    @property
    def part_rates(self) -> Mapping[str, float]:
        """The embedder keeps what its gene vectors know, as the released fine-tuning has it."""
        return {"embedder": 0.1}

    def batch(self, counts: csr_matrix, coordinates: Tensor | None = None) -> ContextBatch:
        """Cells of one context as the module reads them: counts (n, G), x and y in [0, 1], (n, 2)."""
        return ContextBatch(SparseCounts.from_csr(counts), coordinates).to(self.module.device)

    # ---- training ----------------------------------------------------------------------------------------------

    @checks_arguments
    def train(
        self,
        max_epochs: int = 100,
        *,
        lr: float = 2e-4,
        part_lrs: Mapping[str, float] | None = None,
        weight_decay: float = 1e-8,
        warmup_steps: int = 100,
        schedule: Schedule = "constant",
        validation_size: float = 0.1,
        measured_genes: Mapping[str, Sequence[str]] | None = None,
        panel_sizes: tuple[int, int] | None = None,
        seed: int = 0,
        checkpoint_dir: str | Path | None = None,
        accelerator: str = "auto",
        devices: int | list[int] | str = "auto",
        strategy: str = "auto",
        precision: str = "32-true",
        **trainer_kwargs: Any,
    ) -> None:
        """Train on the registered data: masked expression, whole contexts, one context per step.

        Parameters
        ----------
        max_epochs
            Passes over all contexts.
        lr, weight_decay
            Of AdamW.
        part_lrs
            Learning rates of parts that differ: ``"embedder"``, ``"layers"``, ``"latent"``, ``"decoder"``. A tenth of
            ``lr`` for the embedder keeps what its gene vectors know, as the released fine-tuning does.
        warmup_steps
            Steps over which the learning rate grows from zero.
        schedule
            ``"constant"`` or ``"cosine"`` after the warm-up.
        validation_size
            Share of contexts held out; a context is never split.
        measured_genes
            Context -> identifiers of the genes measured there. Unmeasured genes enter neither likelihood nor total.
            By default the genes detected in at least one cell of the context.
        panel_sizes
            Show at each training step only a random panel of the measured genes, its size drawn between these two, or
            all where there are fewer. The model meets panels of all kinds, and a step costs less.
        seed
            Seed of everything random in training. The same seed gives the same weights.
        checkpoint_dir
            Where to leave a checkpoint after every epoch. If one is there, training goes on from it.
        accelerator, devices, strategy, precision
            As in Lightning's `~lightning.pytorch.trainer.trainer.Trainer`.
        **trainer_kwargs
            ``lora``, ``gradient_checkpointing`` (:doc:`/guide/large`), and others of scvi-tools' `~scvi.train.Trainer`,
            such as ``early_stopping=True`` with ``early_stopping_monitor="loss_validation"``.

        Notes
        -----
        ``model.history`` holds ``loss``, ``reconstruction`` and ``latent`` per epoch, training and validation.
        """
        called_with = dict(locals())
        from scfoundry.train.plan import ContextDataModule, ContextTrainingPlan, fit

        cells = self.registered_cells("CellPLM.train")
        groups = cells.contexts
        check_training(self.module, groups, measured_genes, panel_sizes, len(self.genes), part_lrs)
        data = ContextDataModule.split(
            groups, cells_per_step=self.config.max_cells, validation_size=validation_size, seed=seed
        )
        how = {name: called_with[name] for name in ("lr", "weight_decay", "warmup_steps", "schedule", "seed")}
        rates = [(self.module.get_submodule(part), rate) for part, rate in (part_lrs or {}).items()]
        loss = self._loss_of(cells, measured_genes, panel_sizes)
        plan = ContextTrainingPlan(self.module, groups, data.visits, loss, **how, other_rates=rates)
        trainer_kwargs |= {"accelerator": accelerator, "devices": devices, "strategy": strategy, "precision": precision}
        trainer_kwargs |= {"max_epochs": max_epochs, "checkpoint_dir": checkpoint_dir, "called_with": called_with}
        fit(self, plan, data, **trainer_kwargs)

    def _loss_of(
        self, cells: Cells, measured: Mapping[str, Sequence[str]] | None, panel_sizes: tuple[int, int] | None
    ) -> Callable[[Context, int], dict[str, Tensor]]:
        """Loss of a context of the registered data."""
        batches = None
        if self.knows_batches_:
            batches = np.asarray(self.adata_manager.get_from_registry("batch")).ravel()
        reader = ContextReader(cells.reader, cells.coordinates, batches=batches, measured=measured, genes=self.genes)

        def loss(context: Context, step: int) -> dict[str, Tensor]:
            # Cells are dropped before they are read: a large sample costs no more than the cells that stay.
            n_cells = len(context.rows)
            cells = keep_cells(n_cells, self.config) if self.module.training else torch.arange(n_cells)
            sample = reader.sample(context, cells)
            if panel_sizes is not None and self.module.training:
                size = int(torch.randint(panel_sizes[0], panel_sizes[1] + 1, ()))
                sample = sample.restricted(sample.genes[torch.randperm(len(sample.genes))[:size].sort().values])
            return pretraining_loss(self.module, sample.to(self.module.device), step)

        return loss

    def fine_tune_expression(self, cells: Cells, *, max_epochs: int | None, seed: int, compute: Compute) -> Self:
        """Copy that went on learning masked expression, from these cells; see `FineTunesExpression`."""
        from scfoundry.model.cellplm._fine_tune_expression import fine_tune_on_expression

        n_batches = len(cells.contexts)
        model = self.copy(n_batches=n_batches) if n_batches > 1 else self.copy()
        model.module.to(compute.device)
        fine_tune_on_expression(model, cells, max_epochs=max_epochs, seed=seed, compute=compute)
        return model

    def fine_tune_integration(self, cells: Cells, *, max_epochs: int | None, seed: int, compute: Compute) -> Self:
        """Copy whose decoder is told the batch, so that the latent need not tell it; see `FineTunesIntegration`."""
        from scfoundry.model.cellplm._fine_tune_expression import KL_WARMUP_STEPS, fine_tune_on_expression

        model = self.copy(n_batches=len(cells.contexts), kl_warmup_steps=KL_WARMUP_STEPS)
        model.module.to(compute.device)
        fine_tune_on_expression(model, cells, together=True, max_epochs=max_epochs, seed=seed, compute=compute)
        return model

    def embed_integrated(self, cells: Cells, compute: Compute) -> NDArray[np.float32]:
        """Embeddings of cells that see those of all batches, as when the copy learned."""
        return self.embed(cells.as_one_context(), compute)

    def fine_tune_imputation(
        self,
        spots: Cells,
        reference: Cells,
        *,
        panel: NDArray[np.int64],
        hidden: NDArray[np.int64],
        max_epochs: int | None,
        seed: int,
        compute: Compute,
    ) -> Self:
        """Copy that learned from spots and cells together, as published; see `FineTunesImputation`."""
        from scfoundry.model.cellplm._fine_tune_imputation import fine_tune_on_both

        model = self.copy()
        model.module.to(compute.device)
        fine_tune_on_both(
            model, spots, reference, panel=panel, hidden=hidden, max_epochs=max_epochs, seed=seed, compute=compute
        )
        return model

    def replaced_gene_shifts(
        self, cells: Cells, genes: Mapping[str, int], value: float, compute: Compute
    ) -> dict[str, NDArray[np.float64]]:
        """Mean change of the embedding of cells of one context when the log expression of a gene is ``value``."""
        return replaced_gene_shifts(self.module, cells, genes, value, compute)

    def fine_tune_perturbations(
        self,
        controls: Cells,
        conditions: Sequence[tuple[str, Sequence[int]]],
        profiles: NDArray[np.float64],
        genes: NDArray[np.int64],
        *,
        value: float = -100.0,
        max_epochs: int | None = None,
        seed: int = 0,
        compute: Compute,
    ) -> tuple[CellPLM, Head]:
        """Copy, and weights of an expression head by name, that turn controls into profiles (section 4.5)."""
        from scfoundry.model.cellplm._fine_tune_perturbation import fine_tune_perturbations

        how: dict[str, Any] = {"value": value, "max_epochs": max_epochs, "seed": seed, "compute": compute}
        model = self.copy()
        return model, fine_tune_perturbations(model, controls, conditions, profiles, genes, **how)

    def replaced_gene_changes(
        self, controls: Cells, head: Head, conditions: Sequence[Sequence[int]], value: float, compute: Compute
    ) -> NDArray[np.float64]:
        """Mean change that the head predicts for controls of one context with genes replaced, (n, n_genes)."""
        from scfoundry.model.cellplm._fine_tune_perturbation import replaced_gene_changes

        return replaced_gene_changes(self.module, controls, head, conditions, value, compute)

    # ---- official files ----------------------------------------------------------------------------------------

    @classmethod
    def _read_release(cls, folder: Path, version: str | None, adata: AnnData | None, config: dict[str, Any]) -> Self:
        released, genes, state, weights = read_release(folder, version)
        state_of = partial(from_released, state, source=str(weights))
        model = cls._filled(state_of, state.values(), str(weights), adata, genes=genes, **(released.as_dict() | config))
        model.description_ |= {
            "weights": weights.name.removesuffix(".best.ckpt"),
            "licence": "BSD-2-Clause",
            "trained_on": CELLPLM_DATA,
            "sha256": sha256(weights),
        }
        return model
