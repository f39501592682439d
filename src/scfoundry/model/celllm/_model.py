"""CellLM for AnnData: setup, training, embedding, weights."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch

from scfoundry._arguments import checks_arguments
from scfoundry.data.matrix.reader import CountsInMemory
from scfoundry.model._base import InferenceModel
from scfoundry.model._capabilities import DiscriminatesTumour
from scfoundry.model._parts import by_cell
from scfoundry.model._pretrained import CELLLM_PAPER
from scfoundry.model.celllm._checkpoint import find_weights, from_released, is_release, read_release
from scfoundry.model.celllm._config import CellLMConfig
from scfoundry.model.celllm._gene_vectors import vectors_of_vocabulary
from scfoundry.model.celllm._module import CellLMModule
from scfoundry.model.celllm._objectives import UNKNOWN, objective_weights
from scfoundry.model.celllm._tokens import CellTokens
from scfoundry.model.celllm._tumour import require_both_kinds, tumour_codes
from scfoundry.nn.attention_factors import ClsAttention
from scfoundry.nn.checkpoint import sha256

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray
    from scipy import sparse
    from torch import Tensor

    from scfoundry._device import Compute
    from scfoundry.data.genes import GeneVocabulary
    from scfoundry.data.matrix.cells import Cells
    from scfoundry.model.celllm._tokens import CellBatch
    from scfoundry.train.plan import Schedule

__all__ = ["CellLM"]

# Cells of which gradients are computed at once where a task trains through the embedding.
CELLS_PER_PART = 16


class CellLM(InferenceModel):
    r"""Transformer over genes that tells cells apart by exact contrast with thousands :cite:p:`zhao2023celllm`.

    A cell is the set of its expressed genes, each with the whole part of its log expression, and ``<cls>``. Attention
    is linear in their number (FAVOR+), so that thousands of genes are read. It learns to guess levels that are hidden,
    to tell cells of tumours from normal ones, and to find the second view of a cell among those of a large batch, whose
    gradients are computed part by part (divide and conquer).

    Parameters
    ----------
    adata
        Training data registered with `setup_anndata`. Inference needs none.
    registry
        Filled in by `load`.
    genes
        Vocabulary, or its gene ids in order; the genes of ``adata`` if `None`.
    seed
        Seed of the initial weights.
    gene_vectors
        Vectors that genes begin with, genes x ``n_hidden``, found by symbols or Ensembl ids
        (`sf.pp.gene_vectors_from_graph`); genes without one begin with their mean. At random if `None`.
    **config
        Values of `sf.model.CellLMConfig`.

    Examples
    --------
    Official files, whose genes the user names:

    >>> import scfoundry as sf
    >>> model = sf.model.CellLM.from_pretrained("folder with ckpt.pth", genes="Zheng68K.h5ad")
    >>> sf.tl.embed(adata, model=model)
    >>> model.save_pretrained("celllm")  # holds the genes, too

    Train one on your own cells:

    >>> sf.model.CellLM.setup_anndata(adata, layer="counts", tumour_key="tissue")
    >>> model = sf.model.CellLM(adata, n_layers=2, n_hidden=128, n_heads=4, n_head=32, n_features=128)
    >>> model.train(max_epochs=10, lr=1e-3)
    """

    name = "celllm"
    citation = CELLLM_PAPER
    _config_cls = CellLMConfig
    _module_cls = CellLMModule

    config: CellLMConfig
    module: CellLMModule

    def __init__(
        self,
        adata: AnnData | None = None,
        registry: dict | None = None,
        *,
        genes: GeneVocabulary | Sequence[str] | Mapping[str, Any] | None = None,
        seed: int = 0,
        gene_vectors: pd.DataFrame | None = None,
        **config: Any,
    ) -> None:
        super().__init__(adata, registry, genes=genes, seed=seed, **config)
        if gene_vectors is not None:
            # Part of the weights from here on: they are saved with the model, and loading needs no table.
            table = vectors_of_vocabulary(gene_vectors, self.genes, self.config.n_hidden)
            with torch.no_grad():
                self.module.genes.weight[: len(table)] = table

    @classmethod
    @checks_arguments
    def setup_anndata(
        cls, adata: AnnData, layer: str | None = None, tumour_key: str | None = None, **kwargs: Any
    ) -> None:
        """Register cells to learn from.

        Parameters
        ----------
        adata
            Cells x genes with raw counts.
        layer
            Layer with the counts, ``X`` if `None`.
        tumour_key
            Column of ``obs`` that says whether a cell comes from a tumour: booleans, or ``"tumour"`` and ``"normal"``;
            missing where nobody knows.

        Raises
        ------
        KeyError
            If there is no such column.
        ValueError
            If it says something else.
        """
        setup_args = dict(locals())
        if tumour_key is not None:
            tumour_codes(adata, tumour_key)
        cls._register(adata, setup_args, {}, **kwargs)

    # ---- inference ---------------------------------------------------------------------------------------------

    @torch.no_grad()
    @by_cell()
    def embed(self, cells: Cells, compute: Compute) -> NDArray[np.float32]:
        """Embed cells, each by itself: states of ``<cls>`` (see ``pooling``), float32, (n_obs, n_hidden)."""
        self.module.to(compute.device).eval()
        width = self.config.n_contrast if self.config.pooling == "contrast" else self.config.n_hidden
        latent = np.empty((cells.n_obs, width), dtype=np.float32)
        with compute.autocast():
            for batch in CellTokens(cells.reader, self.config).stream(compute.device, compute.batch_size):
                latent[batch.rows.cpu()] = self.module.pool(batch).float().cpu().numpy()
        return latent

    @torch.no_grad()
    def cls_attention(self, cells: Cells, compute: Compute) -> Iterator[ClsAttention]:
        """How ``<cls>`` divides its attention between genes; see `AttendsFromCls`."""
        self.module.to(compute.device).eval()
        for batch in CellTokens(cells.reader, self.config).stream(compute.device, compute.batch_size):
            genes = batch.genes.masked_fill(batch.genes >= len(self.genes), -1)
            weights = self.module.cls_attention(batch).mean((1, 2))
            yield ClsAttention.of(batch.rows.cpu().numpy(), genes, weights)

    @by_cell()
    @torch.no_grad()
    def tumour_probabilities(self, cells: Cells, compute: Compute) -> NDArray[np.float32]:
        """Probability that a cell comes from a tumour, by the head on ``<cls>``, float32, (n_obs,)."""
        self.module.to(compute.device).eval()
        found = np.empty(cells.n_obs, dtype=np.float32)
        with compute.autocast():
            for batch in CellTokens(cells.reader, self.config).stream(compute.device, compute.batch_size):
                logits = self.module.tumour_head(self.module(batch, n_wanted=1)[:, 0]).float()
                found[batch.rows.cpu().numpy()] = logits.softmax(1)[:, 1].cpu().numpy()
        return found

    def lacks(self, capability: type) -> str | None:
        """Why these weights cannot do what the class can."""
        if capability is DiscriminatesTumour and "tumour" not in self.description_.get("objectives", []):
            head = "have a head for tumours that learned nothing" if self.config.tumour_head else "have no such head"
            return (
                f"The weights {self.provenance['weights']!r} {head}. Train them on cells of tumours and of normal "
                'tissue: sf.model.CellLM.setup_anndata(adata, tumour_key="tissue"), with "tumour" and "normal" in that '
                "column; model = sf.model.CellLM(adata), or from_pretrained(source, adata, tumour_head=True); "
                "model.train()."
            )
        return super().lacks(capability)

    @torch.no_grad()
    def gene_vectors(self) -> NDArray[np.float32]:
        """Vectors of the vocabulary's genes, before any cell, float32, (G, n_hidden)."""
        return self.module.genes.weight[: len(self.genes)].float().cpu().numpy()

    @property
    def part_rates(self) -> Mapping[str, float]:
        """All parts learn alike when fine-tuned."""
        return {}

    def batch(self, counts: sparse.csr_matrix, coordinates: Tensor | None = None) -> list[CellBatch]:
        """Cells as the module embeds them, counts (n, G), in parts of similar length; places play no part."""
        reader = CountsInMemory(counts, np.unique(counts.indices).astype(np.int64))
        rows = np.arange(counts.shape[0])
        return CellTokens(reader, self.config).parts(rows, self.module.device, min(CELLS_PER_PART, len(rows)))

    # ---- training ----------------------------------------------------------------------------------------------

    @checks_arguments
    def train(
        self,
        max_epochs: int = 10,
        *,
        loss_weights: Mapping[str, float] | None = None,
        lr: float = 1e-4,
        weight_decay: float = 0.0,
        warmup_steps: int = 0,
        schedule: Schedule = "cosine",
        batch_size: int = 512,
        part_size: int | None = None,
        validation_size: float = 0.1,
        seed: int = 0,
        checkpoint_dir: str | Path | None = None,
        **trainer_kwargs: Any,
    ) -> None:
        """Pre-train on the registered data.

        Parameters
        ----------
        max_epochs
            Passes over all cells.
        loss_weights
            Weights other than 1 of ``"masked_values"`` (hidden levels, guessed from the other genes), ``"tumour"``
            (whether a cell is of a tumour, where ``tumour_key`` was registered) and ``"contrastive"`` (views of the
            same cell with different dropout, among those of the whole batch); 0 leaves one out.
        lr, weight_decay, warmup_steps, schedule
            Of AdamW; the rate falls along a cosine as published, ``"linear"`` or not at all (``"constant"``). Small
            models on small data need a rate of 1e-3.
        batch_size
            Cells per step, all of which are contrasted with each other.
        part_size
            Cells of a batch whose gradients are in memory at a time, which changes no gradient; as many as suit the
            device if `None`.
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
            If there are no data, an objective lacks its head, labels, dropout or company, or a size is not positive.

        Notes
        -----
        ``model.history`` holds ``loss`` and every objective per epoch, training and validation. Random features are
        drawn anew after every ``redraw_interval`` optimiser steps, never between the two passes of a step.
        """
        called_with = dict(locals())
        from scfoundry.model.celllm._training import pretrain

        cells = self.registered_cells("CellLM.train")
        key = self.registry["setup_args"].get("tumour_key")
        tumour = np.full(cells.n_obs, UNKNOWN) if key is None else tumour_codes(self.adata, key)
        weights = objective_weights(loss_weights, self._missing_objectives(key))
        if weights["tumour"]:
            require_both_kinds(tumour, key)
        if weights["contrastive"]:
            self._require_contrast(min(batch_size, cells.n_obs))
        how = {name: called_with[name] for name in ("lr", "weight_decay", "warmup_steps", "schedule", "seed")}
        trainer_kwargs |= {"batch_size": batch_size, "part_size": part_size, "validation_size": validation_size}
        trainer_kwargs |= {"max_epochs": max_epochs, "checkpoint_dir": checkpoint_dir, "called_with": called_with}
        pretrain(self, CellTokens(cells.reader, self.config), tumour, weights, plan_kwargs=how, **trainer_kwargs)
        # What a head can do depends on the encoder: one that did not learn along is of no use any more.
        self.description_["objectives"] = [name for name, weight in weights.items() if weight]

    def _missing_objectives(self, tumour_key: str | None) -> dict[str, str]:
        """Objectives that this model or its data have nothing for, and why."""
        missing = {}
        if not self.config.n_contrast:
            missing["contrastive"] = (
                "The contrastive loss needs a head, which this model lacks: CellLM(adata, n_contrast=512), or for "
                "official weights CellLM.from_pretrained(source, adata, n_contrast=512, ...)."
            )
        if not self.config.tumour_head or tumour_key is None:
            missing["tumour"] = (
                "Telling tumour from normal cells needs a head and labels: CellLM.setup_anndata(adata, "
                "tumour_key=...) and CellLM(adata, tumour_head=True)."
            )
        return missing

    def _require_contrast(self, n_together: int) -> None:
        """Refuse a contrast of views that are the same, or of a cell with nothing."""
        if n_together < 2:
            msg = (
                "The contrastive loss tells a cell from the others of its batch, and a batch of 1 has none: "
                'train(batch_size=512), or without it: train(loss_weights={"contrastive": 0}).'
            )
            raise ValueError(msg)
        if not self.config.dropout:
            msg = (
                "The two views of a cell differ by dropout, and this model has dropout=0.0: CellLM(adata, "
                'dropout=0.1), or without the contrast: train(loss_weights={"contrastive": 0}).'
            )
            raise ValueError(msg)

    # ---- official files ----------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        adata: AnnData | None = None,
        *,
        version: str | None = None,
        genes: Sequence[str] | AnnData | str | Path | None = None,
        **config: Any,
    ) -> Self:
        """Load weights: ours by name or folder, or official files, whose genes have to be named.

        Parameters
        ----------
        source
            A name of `sf.model.list_pretrained`, or a folder that `save_pretrained` wrote or with an official file.
        adata
            Registered training data, to fine-tune on. Inference needs none.
        version
            Which official file, without its ending, where a folder holds several.
        genes
            Of official files: the genes of their rows in order, as a list, or an AnnData or ``.h5ad`` file that has
            them as ``var_names``, such as the data sets released with the weights.
        **config
            Configuration values to change, such as ``max_length=20_000``, or ``n_contrast=512`` for a head that
            official files lack, which then starts at random.

        Returns
        -------
        The model on the CPU, in evaluation mode.

        Raises
        ------
        CheckpointError
            If the files are damaged or belong to another model; missing, unexpected and reshaped tensors raise, too.
        FileNotFoundError
            If the source does not exist, or its files have to be downloaded by hand.
        ValueError
            If the genes of an official file are missing or not as many as its rows.

        Examples
        --------
        >>> import scfoundry as sf
        >>> model = sf.model.CellLM.from_pretrained("folder with ckpt.pth", genes="Zheng68K.h5ad")
        """
        if "gene_vectors" in config:
            msg = "Weights bring vectors of their genes: leave gene_vectors out, or CellLM(adata, gene_vectors=...)."
            raise ValueError(msg)
        named = {} if genes is None else {"genes": genes}
        return super().from_pretrained(source, adata, version=version, **named, **config)

    @classmethod
    def _read_folder(cls, folder: Path, adata: AnnData | None, config: dict[str, Any]) -> Self:
        if "genes" in config:
            msg = f"{folder} holds the genes of its weights in genes.tsv: leave genes= out."
            raise ValueError(msg)
        return super()._read_folder(folder, adata, config)

    @classmethod
    def _is_release(cls, folder: Path) -> bool:
        return is_release(folder)

    @classmethod
    def _read_release(cls, folder: Path, version: str | None, adata: AnnData | None, config: dict[str, Any]) -> Self:
        path = find_weights(folder, version)
        release = read_release(path, config.pop("genes", None))
        state_of, values = partial(from_released, release.tensors, source=str(path)), release.config | config
        model = cls._filled(state_of, release.tensors.values(), str(path), adata, genes=release.genes, **values)
        model.description_ |= {"weights": path.stem, "sha256": sha256(path)}
        return model
