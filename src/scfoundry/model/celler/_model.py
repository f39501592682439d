"""Celler (Zhao et al. 2025): a model of genes and their values, trained on hidden values and fine-tuned on labels."""

from __future__ import annotations

from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch

from scfoundry._arguments import checks_arguments
from scfoundry._device import Compute
from scfoundry.data.matrix.cells import Cells
from scfoundry.data.tokens.bins import gene_keys
from scfoundry.model._base import InferenceModel
from scfoundry.model._parts import by_cell
from scfoundry.model._pretrained import CELLER_PAPER, REGISTRY
from scfoundry.model.celler._attention import gene_attention
from scfoundry.model.celler._checkpoint import from_released, is_release, read_release
from scfoundry.model.celler._config import CellerConfig
from scfoundry.model.celler._module import CellerModule, ClassificationHead
from scfoundry.model.celler._objectives import objective_weights
from scfoundry.model.celler._tokens import CellTokens
from scfoundry.nn.attention_factors import attention_of_cls
from scfoundry.nn.checkpoint import sha256
from scfoundry.nn.label_loss import PLAIN, LabelLoss
from scfoundry.stats.splits import stratified_split
from scfoundry.train.labels import classes_of_cells, warn_of_one_class
from scfoundry.train.rates import rate_at_width

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence
    from pathlib import Path

    from anndata import AnnData
    from numpy.typing import NDArray
    from scipy import sparse
    from torch import Tensor

    from scfoundry._device import Precision
    from scfoundry.data.labels import Label
    from scfoundry.model.celler._module import CellBatch
    from scfoundry.nn.attention_factors import ClsAttention, GeneAttention
    from scfoundry.train.plan import Schedule

__all__ = ["Celler"]

BATCH = "batch"
CLASSIFIER_LR = 1e-4
CELLS_PER_PART = 16  # of which gradients are computed at once where a task trains through the embedding


class Celler(InferenceModel):
    r"""Gene language model of scGPT :cite:p:`cui2024scgpt`, as Celler :cite:p:`zhao2025celler` classifies cells by it.

    A cell is a set of genes, each with the bin of its value among those of the cell, and ``<cls>``; a transformer
    without positions lets them inform each other. It learns to guess values that are hidden, from their neighbours and
    from the cell as a whole. A classification head reads ``<cls>``.

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
    **config
        Values of `sf.model.CellerConfig`.

    Examples
    --------
    >>> import scfoundry as sf
    >>> model = sf.model.Celler.from_pretrained("folder with args.json, vocab.json and best_model.pt")
    >>> sf.tl.embed(adata, model=model)

    Or train one on your own cells:

    >>> sf.model.Celler.setup_anndata(adata, layer="counts")
    >>> model = sf.model.Celler(adata, n_layers=2, n_hidden=128)
    >>> model.train(max_epochs=6, lr=1e-3)
    """

    name = "celler"
    citation = CELLER_PAPER
    _config_cls = CellerConfig
    _module_cls = CellerModule

    config: CellerConfig
    module: CellerModule

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
            Column of ``obs`` with batches to be integrated, as published: a new model knows those of these data.
        """
        setup_args = dict(locals())
        if "source_registry" in kwargs:
            # Cells of other batches are read by the statistics of all.
            kwargs["extend_categories"] = True
        cls._register(adata, setup_args, {} if batch_key is None else {BATCH: batch_key}, **kwargs)

    def _complete_config(self, config: dict[str, Any]) -> dict[str, Any]:
        if "n_batches" in config or BATCH not in self.registry["field_registries"]:
            return config
        names = self.registry["field_registries"][BATCH]["state_registry"]["categorical_mapping"]
        return config | {"n_batches": len(names), "batches": tuple(map(str, names))}

    @cached_property
    def _keys(self) -> NDArray[np.uint64]:
        return gene_keys(self.genes.ids)

    def _tokens(self, cells: Cells, variable: NDArray[np.int64] | None = None) -> CellTokens:
        return CellTokens.of(cells, self._keys, self.config, variable)

    def _kept_genes(self, cells: Cells, compute: Compute) -> NDArray[np.int64] | None:
        """Genes that cells too long to be read keep first, where that follows from all cells."""
        return self._tokens(cells).variable

    def _cells(self, adata: AnnData | Cells, layer: str | None, caller: str) -> Cells:
        return adata if isinstance(adata, Cells) else Cells.of(adata, self.genes, layer=layer, caller=caller)

    # ---- inference ---------------------------------------------------------------------------------------------

    @torch.no_grad()
    @by_cell(variable="_kept_genes")
    def embed(self, cells: Cells, compute: Compute, *, variable: Any = None) -> NDArray[np.float32]:
        """Embed cells, each by itself: states of ``<cls>``, scaled to length 1, float32, (n_obs, n_hidden)."""
        self.module.to(compute.device).eval()
        latent = np.empty((cells.n_obs, self.config.n_hidden), dtype=np.float32)
        with compute.autocast():
            for batch in self._tokens(cells, variable).stream(compute.device, compute.batch_size):
                latent[batch.rows.sort().values.cpu()] = self.module.embed([batch]).float().cpu().numpy()
        return latent

    embed_integrated = embed

    @torch.no_grad()
    def gene_vectors(self) -> NDArray[np.float32]:
        """Vectors of the vocabulary's genes, before any cell, float32, (G, n_hidden)."""
        return self.module.gene_vectors(torch.arange(len(self.genes), device=self.module.device)).float().cpu().numpy()

    @property
    def n_layers(self) -> int:
        """Layers in which genes attend to each other."""
        return self.config.n_layers

    def gene_attention(self, cells: Cells, layers: Collection[int], compute: Compute) -> Iterator[GeneAttention]:
        """Queries and keys of layers, batch by batch; see `AttendsToGenes`."""
        self.module.to(compute.device).eval()
        return gene_attention(self.module, self._tokens(cells).stream(compute.device, compute.batch_size), layers)

    def cls_attention(self, cells: Cells, compute: Compute) -> Iterator[ClsAttention]:
        """How ``<cls>`` divides its attention between genes; see `AttendsFromCls`."""
        return attention_of_cls(self.gene_attention(cells, range(self.n_layers), compute), self.n_layers)

    @property
    def part_rates(self) -> Mapping[str, float]:
        """All parts learn alike when fine-tuned, as published."""
        return {}

    def batch(self, counts: sparse.csr_matrix, coordinates: Tensor | None = None) -> list[CellBatch]:
        """Cells as the module embeds them, counts (n, G), in parts of similar length; places play no part."""
        tokens = CellTokens.of_counts(counts, self._keys, self.config)
        return list(tokens.stream(self.module.device, min(CELLS_PER_PART, counts.shape[0])))

    # ---- training ----------------------------------------------------------------------------------------------

    @checks_arguments
    def train(
        self,
        max_epochs: int = 6,
        *,
        loss_weights: Mapping[str, float] | None = None,
        lr: float = 1e-4,
        weight_decay: float = 0.0,
        warmup_steps: int | None = None,
        schedule: Schedule = "cosine",
        batch_size: int = 32,
        part_size: int | None = None,
        validation_size: float = 0.1,
        seed: int = 0,
        checkpoint_dir: str | Path | None = None,
        **trainer_kwargs: Any,
    ) -> None:
        """Pre-train on the registered data: guess values that are hidden.

        Parameters
        ----------
        max_epochs, batch_size, validation_size
            Passes over all cells, cells per step, and share of cells held out.
        loss_weights
            Weights that differ from the published ones, of ``"gep"`` (hidden values from the states of their genes),
            ``"gepc"`` (from the cell), ``"nonzero"`` (whether they are above zero), ``"ecs"`` (elastic similarity of
            cells) and ``"dab"`` (batches that cells should not tell). With batches ``"ecs"`` has 10, else 0; all others
            1 where the model has heads for them.
        lr, weight_decay, warmup_steps, schedule
            Of AdamW; small models on small data need a rate of 1e-3. It grows from zero over 10,000 steps, but at most
            a tenth of all, if `None`; and falls along a cosine, as published, ``"linear"`` or not (``"constant"``).
        part_size
            Cells of a batch whose gradients are in memory at a time, which changes no gradient; all if `None`.
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
            If there are no data, or the model has no such objective.

        Notes
        -----
        ``model.history`` holds ``loss`` and every objective per epoch, training and validation.
        """
        called_with = dict(locals())
        from scfoundry.model.celler._training import pretrain

        weights = objective_weights(self.config, loss_weights)
        cells = self._tokens(self.registered_cells("Celler.train"))
        how = {name: called_with[name] for name in ("lr", "weight_decay", "warmup_steps", "schedule", "seed")}
        trainer_kwargs |= {"batch_size": batch_size, "part_size": part_size, "validation_size": validation_size}
        trainer_kwargs |= {"max_epochs": max_epochs, "checkpoint_dir": checkpoint_dir, "called_with": called_with}
        pretrain(self, cells, weights, plan_kwargs=how, **trainer_kwargs)

    def train_classifier(
        self,
        adata: AnnData | Cells,
        labels: Sequence[str | None] | np.ndarray,
        *,
        layer: str | None = None,
        max_epochs: int = 10,
        lr: float = CLASSIFIER_LR,
        batch_size: int = 32,
        validation_size: float = 0.1,
        patience: int = 10,
        loss: LabelLoss = PLAIN,
        seed: int = 0,
        **trainer_kwargs: Any,
    ) -> None:
        """Learn cell types from labelled cells, all weights with a classification head.

        It replaces one that is there. Saved with the model: the head, names of its classes, their numbers of cells.

        Parameters
        ----------
        adata, layer
            Reference with raw counts, in ``X`` or a layer, or the `Cells` of one; it is only read.
        labels
            Label of every cell, a Series by its index; cells where it is missing are left out.
        max_epochs, lr, batch_size
            Passes over the cells, rate of AdamW without weight decay, falling linearly, and cells per step.
        validation_size, patience
            Share of every class held out (rounded down) to keep the best weights, else the last ones stay; and epochs
            without improvement before training stops.
        loss
            What is minimised; training stops by cross-entropy whatever it is. If the sizes of classes enter it,
            probabilities are for classes of one size.
        seed
            Of the head, the split and everything random in training.
        **trainer_kwargs
            ``lora``, ``gradient_checkpointing`` (:doc:`/guide/large`), and others of scvi-tools' `~scvi.train.Trainer`.

        Raises
        ------
        ValueError
            If there are less than two classes, or not one label per cell.

        Examples
        --------
        >>> model.train_classifier(reference, reference.obs["cell_type"])
        >>> model.config.classes, model.predict_classes(adata)
        """
        from scfoundry.model.celler._training import learn_classes

        read = self._cells(adata, layer, "Celler.train_classifier")
        classes, coded, rows = classes_of_cells(labels, read.names, None, seed)
        self._attach_head(classes, np.bincount(coded[rows]), seed=seed)
        split = stratified_split(coded, validation_size, rows, np.random.default_rng(seed))
        how: dict[str, Any] = {"max_epochs": max_epochs, "batch_size": batch_size, "patience": patience, "loss": loss}
        learn_classes(self, self._tokens(read), coded, split, lr=lr, seed=seed, **how, **trainer_kwargs)
        compute = Compute.resolve()
        warn_of_one_class(lambda of: self.class_probabilities(read.take(of), compute), coded, rows, classes, seed)

    def _attach_head(self, classes: Sequence[str], counts: NDArray[np.int64], *, seed: int) -> None:
        """Give the model a new classification head, which the configuration names."""
        named = {"n_classes": len(classes), "classes": tuple(classes), "class_counts": tuple(counts.tolist())}
        self._change_config(**named, cls_value=0)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            head = ClassificationHead(self.config.n_hidden, len(classes), self.config.n_layers_cls)
        self.module.classifier = head.to(self.module.device)

    def predict_classes(
        self,
        adata: AnnData | Cells,
        *,
        layer: str | None = None,
        batch_size: int | None = None,
        device: str = "auto",
        precision: Precision = "auto",
    ) -> NDArray[np.float32]:
        """Probability of every class by the classification head; no labels are needed.

        Parameters
        ----------
        adata
            Any AnnData, in memory, backed or dask, or the `Cells` of one.
        layer, batch_size, device, precision
            As in `Celler.get_latent_representation`.

        Returns
        -------
        float32 array, (n_obs, C), rows sum to 1, columns in the order of ``config.classes``.

        Raises
        ------
        ValueError
            If the model has no classification head.
        """
        compute = Compute.resolve(device, precision, batch_size)
        return self.class_probabilities(self._cells(adata, layer, "Celler.predict_classes"), compute)

    @by_cell(variable="_kept_genes")
    def class_probabilities(self, cells: Cells, compute: Compute, *, variable: Any = None) -> NDArray[np.float32]:
        """Probabilities of the classes by the head, float32, (n_obs, C)."""
        from scfoundry.model.celler._training import class_probabilities

        if not self.config.n_classes:
            msg = "This model has no classification head yet: model.train_classifier(reference, labels) makes one."
            raise ValueError(msg)
        self.module.to(compute.device).eval()
        with compute.autocast():
            return class_probabilities(self.module, self._tokens(cells, variable), compute.device, compute.batch_size)

    def fine_tune_labels(
        self,
        cells: Cells,
        labels: Sequence[Label],
        codes: NDArray[np.int64],
        *,
        max_epochs: int | None,
        loss: LabelLoss,
        seed: int,
        compute: Compute,
        lora: bool = False,
    ) -> Self:
        """Copy that learned the labels by a classification head."""
        tuned, order = self.copy(n_classes=0, classes=(), class_counts=()), cells.by_name
        names = np.array([label.name for label in labels], dtype=object)[codes[order]]
        how: dict[str, Any] = ({} if max_epochs is None else {"max_epochs": max_epochs}) | {"loss": loss, "seed": seed}
        how["lr"] = rate_at_width(CLASSIFIER_LR, self.config.n_hidden)
        tuned.train_classifier(cells.take(order), names, lora=lora, **how, **compute.trainer_arguments())
        return tuned

    def label_probabilities(self, cells: Cells, labels: Sequence[Label], compute: Compute) -> NDArray[np.float32]:
        """Probability of every label that was learned, (n_obs, L)."""
        return self.class_probabilities(cells, compute)[:, [self.config.classes.index(label.name) for label in labels]]

    def fine_tune_integration(self, cells: Cells, *, max_epochs: int | None, seed: int, compute: Compute) -> Self:
        """Copy that knows the batches of the cells, trained by scGPT's recipe; see `FineTunesIntegration`."""
        from scfoundry.model.celler._integration import integration_config, learn_integration

        tuned = self.copy(seed=seed, **integration_config(cells))
        learn_integration(tuned, tuned._tokens(cells), max_epochs=max_epochs, seed=seed, compute=compute)
        return tuned

    @classmethod
    def _is_release(cls, folder: Path) -> bool:
        return is_release(folder)

    @classmethod
    def _read_release(cls, folder: Path, version: str | None, adata: AnnData | None, config: dict[str, Any]) -> Self:
        release = read_release(folder)
        tensors, source = release.tensors, str(release.weights)
        state = partial(from_released, tensors, rows=release.rows, source=source)
        model = cls._filled(state, tensors.values(), source, adata, genes=release.genes, **(release.config | config))
        model.description_ |= {"weights": folder.name, "sha256": sha256(release.weights)}
        if (known := REGISTRY.get(folder.name)) and known.model == cls.name:
            model.description_ |= {about: getattr(known, about) for about in ("licence", "citation", "trained_on")}
        return model
