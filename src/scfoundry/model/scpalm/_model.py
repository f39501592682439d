"""ScPaLM for AnnData: setup, training, embedding, pathway tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import torch

from scfoundry._arguments import checks_arguments
from scfoundry._settings import logger
from scfoundry.model._base import InferenceModel
from scfoundry.model._capabilities import TokenisesPathways
from scfoundry.model._parts import by_cell
from scfoundry.model.scpalm._batch import Expression, batches
from scfoundry.model.scpalm._config import ScPaLMConfig
from scfoundry.model.scpalm._module import ScPaLMModule

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from anndata import AnnData
    from numpy.typing import NDArray
    from scipy import sparse
    from torch import Tensor

    from scfoundry._device import Compute
    from scfoundry.data.genes import GeneVocabulary
    from scfoundry.data.matrix.cells import Cells
    from scfoundry.model.scpalm._embedding import GeneTables
    from scfoundry.train.plan import Schedule

__all__ = ["ScPaLM"]

# Published learning rates, by stage.
RATES = {1: 1e-3, 2: 5e-4}


class ScPaLM(InferenceModel):
    r"""A cell is a text of pathway tokens, which are learned :cite:p:`scpalm2024`.

    In whatever order genes come, they become N tokens, each of which is replaced by the nearest of a codebook of C,
    from which expression is reconstructed (stage 1). A second transformer gathers the tokens of a cell in one token,
    from parts of them and against unlike cells (stage 2): the embedding. What codes stand for, `sf.tl.pathway_tokens`
    tells.

    Neither code nor weights of the authors are public: this is a reading of the paper, whose gaps
    `sf.model.ScPaLMConfig` names.

    Parameters
    ----------
    adata
        Training data registered with `setup_anndata`. Inference needs none.
    registry
        Filled in by `load`.
    genes
        Vocabulary, or its gene ids in order; the genes of ``adata`` if `None`. Which genes a token has in
        reconstruction follows from their order; it means nothing else.
    seed
        Seed of the initial weights.
    **config
        Values of `sf.model.ScPaLMConfig`.

    Examples
    --------
    >>> import scfoundry as sf
    >>> sf.model.ScPaLM.setup_anndata(adata, layer="counts")
    >>> model = sf.model.ScPaLM(adata, n_tokens=32, n_hidden=64, n_codes=32, n_layers=2, n_heads=4)
    >>> model.train(max_epochs=10)
    >>> sf.tl.embed(adata, model=model, layer="counts")  # obsm["X_scpalm"]
    """

    name = "scpalm"
    citation = (
        "Anonymous 2024, Pre-training of Single-cell Language Models through Genetic Pathway Learning, ICML Workshop "
        "on Accessible and Efficient Foundation Models for Biological Discovery"
    )
    _config_cls = ScPaLMConfig
    _module_cls = ScPaLMModule

    config: ScPaLMConfig
    module: ScPaLMModule

    def __init__(
        self,
        adata: AnnData | None = None,
        registry: dict | None = None,
        *,
        genes: GeneVocabulary | Sequence[str] | Mapping[str, Any] | None = None,
        seed: int = 0,
        **config: Any,
    ) -> None:
        super().__init__(adata, registry, genes=genes, seed=seed, **config)
        n_genes, n_tokens = len(self.genes), self.config.n_tokens
        genes_per_token = -(-n_genes // n_tokens)
        if (n_tokens - 1) * genes_per_token >= n_genes:
            n_used = -(-n_genes // genes_per_token)
            logger.warning(
                f"{n_genes:,} genes are too few for {n_tokens} tokens: {n_tokens - n_used} of them have no genes to "
                f"reconstruct. Use fewer: ScPaLM(..., n_tokens={n_used})."
            )

    @classmethod
    @checks_arguments
    def setup_anndata(
        cls, adata: AnnData, layer: str | None = None, batch_key: str | None = None, **kwargs: Any
    ) -> None:
        """Register cells to learn from.

        Parameters
        ----------
        adata
            Cells x genes with raw counts.
        layer
            Layer with the counts, ``X`` if `None`.
        batch_key
            Column of ``obs`` with studies or samples, whose means tokens need not tell. All one if `None`.
        """
        setup_args = dict(locals())
        cls._register(adata, setup_args, {"batch": batch_key}, **kwargs)

    def _complete_config(self, config: dict[str, Any]) -> dict[str, Any]:
        n_batches = self.summary_stats.get("n_batch", 1)
        return config if "n_batches" in config or n_batches == 1 else config | {"n_batches": n_batches}

    # ---- inference ---------------------------------------------------------------------------------------------

    @torch.no_grad()
    @by_cell()
    def embed(self, cells: Cells, compute: Compute) -> NDArray[np.float32]:
        """Embed cells, each by itself: states of the cell token (see ``pooling``), float32, (n_obs, n_hidden)."""
        width = self.config.n_hidden * (self.config.n_tokens if self.config.pooling == "concatenated" else 1)
        latent, tables = np.empty((cells.n_obs, width), dtype=np.float32), self._ready(compute)
        start = 0
        with compute.autocast():
            for counts in cells.blocks():
                for some, batch in batches(counts, compute.device, compute.batch_size):
                    tokens = self.module.pathway_tokens(batch, tables).vectors
                    latent[start + some.start : start + some.stop] = self.module.pool(tokens).float().cpu().numpy()
                start += counts.shape[0]
        return latent

    @property
    def n_codes(self) -> int:
        """Codes of the codebook, C."""
        return self.config.n_codes

    @torch.no_grad()
    def pathway_codes(self, counts: sparse.csr_matrix, compute: Compute) -> NDArray[np.int64]:
        """Codes of the N tokens of every cell, (n, N); see `TokenisesPathways`."""
        codes, tables = np.empty((counts.shape[0], self.config.n_tokens), dtype=np.int64), self._ready(compute)
        with compute.autocast():
            for some, batch in batches(counts, compute.device, compute.batch_size):
                codes[some] = self.module.pathway_tokens(batch, tables).codes.cpu().numpy()
        return codes

    @torch.no_grad()
    def reconstruct(self, log: sparse.csr_matrix, compute: Compute) -> NDArray[np.float32]:
        """Log expression of all genes by the pathway tokens of cells, (n, G); see `ReconstructsExpression`."""
        found, tables = np.empty(log.shape, dtype=np.float32), self._ready(compute)
        with compute.autocast():
            for some, batch in batches(log, compute.device, compute.batch_size, normalised=True):
                found[some] = self.module.reconstruct(batch, tables).float().cpu().numpy()
        return found

    def _ready(self, compute: Compute) -> GeneTables | None:
        """Move the module, and compute once what tokens read of genes."""
        self.module.to(compute.device).eval()
        return self.module.embedding.tables() if self.module.embedding.is_linear else None

    def lacks(self, capability: type) -> str | None:
        """Why these weights cannot do what the class can."""
        if capability is TokenisesPathways and not self.config.quantiser:
            return (
                f"The weights {self.provenance['weights']!r} have no codebook: quantiser=False left it out. Train with "
                "one: sf.model.ScPaLM(adata, quantiser=True)."
            )
        return super().lacks(capability)

    @torch.no_grad()
    def gene_vectors(self) -> NDArray[np.float32]:
        """What the model knows of genes before any cell: embeddings of their identity, float32, (G, n_gene)."""
        return self.module.embedding.genes.float().cpu().numpy()

    @property
    def part_rates(self) -> Mapping[str, float]:
        """All parts learn alike when fine-tuned."""
        return {}

    def batch(self, counts: sparse.csr_matrix, coordinates: Tensor | None = None) -> Expression:
        """Cells as the module embeds them, counts (n, G); places play no part."""
        return Expression.of_counts(counts, self.module.device)

    # ---- training ----------------------------------------------------------------------------------------------

    def fine_tune_expression(self, cells: Cells, *, max_epochs: int | None, seed: int, compute: Compute) -> Self:
        """Copy whose tokens, and then its cell token, went on learning from these cells; see `FineTunesExpression`."""
        from scfoundry.model.scpalm._training import fine_tune

        model = self.copy(n_batches=len(cells.contexts))
        model.module.to(compute.device)
        fine_tune(model, cells.ordered(), max_epochs=max_epochs, rates=RATES, seed=seed, compute=compute)
        return model

    @checks_arguments
    def train(
        self,
        max_epochs: int | tuple[int, int] = 10,
        *,
        stage: Literal[1, 2] | None = None,
        lr: float | None = None,
        weight_decay: float = 0.01,
        warmup_steps: int | None = None,
        schedule: Schedule = "cosine",
        batch_size: int = 128,
        validation_size: float = 0.1,
        seed: int = 0,
        checkpoint_dir: str | Path | None = None,
        **trainer_kwargs: Any,
    ) -> None:
        """Pre-train on the registered data, in two stages. What both learn from, `sf.model.ScPaLMConfig` says.

        Parameters
        ----------
        max_epochs
            Passes over all cells, in each stage or by stage: ``(10, 5)``.
        stage
            Only one of them: 1, pathway tokens, or 2, the cell token, which leaves the parts of stage 1 as they are.
            Both, one after the other, if `None`.
        lr
            Of AdamW; as published if `None`: 1e-3 and 5e-4.
        weight_decay, warmup_steps, schedule
            Of AdamW; 5 % of the steps are warm-up if ``warmup_steps`` is `None`, and the rate falls along a cosine,
            ``"linear"`` or not at all (``"constant"``). The paper does not say.
        batch_size
            Cells per step.
        validation_size
            Share of cells held out.
        seed
            Seed of everything random in training. The same seed gives the same weights.
        checkpoint_dir
            Where to leave a checkpoint after every epoch. If one is there, training goes on from it.
        **trainer_kwargs
            ``lora``, ``gradient_checkpointing``, ``strategy``, ``devices``, ``precision`` (:doc:`/guide/large`), and
            further arguments of scvi-tools' `~scvi.train.Trainer`.

        Raises
        ------
        ValueError
            If there are no data, or there is no such stage.

        Notes
        -----
        ``model.history`` holds per epoch, training and validation: ``loss`` and ``reconstruction``; of stage 1
        ``quantiser``, the share of the variance among the cells of a batch that is explained, and the ``perplexity`` of
        its codes; of stage 2 ``contrastive``.
        """
        # Each stage has a folder of its own, and is the same whichever else is asked for.
        called_with = {name: value for name, value in locals().items() if name != "stage"}
        from scfoundry.model.scpalm._training import WARMUP_SHARE, train_cell_token, train_pathway_tokens, training_data

        epochs = (max_epochs, max_epochs) if isinstance(max_epochs, int) else max_epochs
        cells = self.registered_cells("ScPaLM.train")
        data = training_data(cells, batch_size=batch_size, validation_size=validation_size, seed=seed)
        learn = {1: train_pathway_tokens, 2: train_cell_token}
        for number in (1, 2) if stage is None else (stage,):
            n_steps = epochs[number - 1] * len(data.train_dataloader())
            how = {"lr": RATES[number] if lr is None else lr, "weight_decay": weight_decay, "schedule": schedule}
            how |= {"warmup_steps": int(WARMUP_SHARE * n_steps) if warmup_steps is None else warmup_steps, "seed": seed}
            fitting = {"max_epochs": epochs[number - 1], "checkpoint_dir": checkpoint_dir, "called_with": called_with}
            learn[number](self, cells, data, how, **trainer_kwargs | fitting)
