"""LangCell, as far as it learns: what its encoders read, and the methods that train them."""

from __future__ import annotations

from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional as F

from scfoundry._arguments import checks_arguments
from scfoundry._device import Compute
from scfoundry.data.matrix.cells import Cells
from scfoundry.model._base import InferenceModel
from scfoundry.model.langcell._inference import CellStream
from scfoundry.model.langcell._module import ClassificationHead
from scfoundry.model.langcell._objectives import focal_loss
from scfoundry.model.langcell._tokenizer import Tokenizer
from scfoundry.model.langcell._training_data import CellTexts, TrainingCells
from scfoundry.nn.label_loss import PLAIN, LabelLoss
from scfoundry.stats.splits import stratified_split
from scfoundry.train.labels import (
    ClassificationLoss,
    classes_of_cells,
    in_obs_order,
    labelled_cells,
    loss_of_sizes,
    warn_of_one_class,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import pandas as pd
    from anndata import AnnData

    from scfoundry._device import Precision
    from scfoundry.data.matrix.reader import Reader
    from scfoundry.model.langcell._config import LangCellConfig, Mixture
    from scfoundry.model.langcell._few_shot import TunedPart
    from scfoundry.model.langcell._module import LangCellModule
    from scfoundry.model.langcell._training import Contrast, Stage
    from scfoundry.train.plan import Schedule

__all__ = ["TrainableLangCell"]


class TrainableLangCell(InferenceModel):
    """Base of `LangCell`: cells and texts as tokens, pre-training, and the published fine-tunings."""

    config: LangCellConfig
    module: LangCellModule

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Cuts texts into the word pieces of these weights."""
        return Tokenizer(self.config.text_vocabulary, max_length=self.config.max_text_length)

    def stream(self, reader: Reader, compute: Compute) -> CellStream:
        """Cells as batches of tokens, with the model where they go."""
        self.module.to(compute.device).eval()
        how: dict[str, Any] = {"device": compute.device, "batch_size": compute.batch_size}
        return CellStream(reader, self.genes, max_length=self.config.max_length, **how)

    def _cells(self, adata: AnnData | Cells, layer: str | None, caller: str) -> Cells:
        """Cells as they are, or those of an AnnData, checked and aligned."""
        return adata if isinstance(adata, Cells) else Cells.of(adata, self.genes, layer=layer, caller=caller)

    def _training_cells(self, cells: Cells) -> TrainingCells:
        return TrainingCells(cells.reader, self.genes, self.config.max_length)

    def _texts(self) -> np.ndarray:
        """Texts of the registered cells, (n_obs, number of columns)."""
        keys = self.registry["setup_args"]["text_keys"] or ()
        columns = [keys] if isinstance(keys, str) else list(keys)
        return self.adata.obs[columns].astype(str).to_numpy()

    @checks_arguments
    def train(
        self,
        max_epochs: int = 3,
        *,
        stage: Stage = 2,
        contrast: Contrast = "momentum",
        loss_weights: Mapping[str, float] | None = None,
        lr: float = 1e-5,
        weight_decay: float = 1e-3,
        warmup_steps: int = 1000,
        schedule: Schedule = "linear",
        batch_size: int = 32,
        part_size: int | None = None,
        validation_size: float = 0.1,
        seed: int = 0,
        checkpoint_dir: str | Path | None = None,
        **trainer_kwargs: Any,
    ) -> None:
        """Pre-train on the registered data: first cells alone (stage 1), then cells and texts (stage 2).

        Texts that are true of a cell, in any of the registered columns, are never its negatives.

        Parameters
        ----------
        max_epochs
            Passes over all cells.
        stage
            1 trains the cell encoder by ``"masked_genes"`` and ``"cell_cell"`` contrast; 2 trains everything by these,
            ``"cell_text"`` contrast and ``"matching"`` of hard pairs.
        contrast
            ``"momentum"`` as published: the batch is in memory at once, and a queue adds negatives (``queue_size``).
            ``"divide_and_conquer"``: large batches without a queue, their exact gradients computed part by part.
        loss_weights
            Weights of these objectives that differ from 1.
        lr, weight_decay
            Of AdamW, as published; random weights on small data need a rate of 1e-4 to 1e-3.
        warmup_steps
            Steps over which the learning rate grows from zero.
        schedule
            ``"linear"`` down to zero at the last step as published, ``"cosine"`` or ``"constant"``.
        batch_size
            Cells per step. With ``accumulate_grad_batches`` (published: 3 cells, 32 times, on 4 GPUs) gradients add up,
            but negatives come from a batch and the queue only.
        part_size
            Cells whose gradients are in memory at a time where a batch is divided; as suits the device if `None`.
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
            If there are no data, stage 2 has no texts, or a batch cannot be divided so.

        Notes
        -----
        ``model.history`` holds ``loss`` and every objective per epoch, training and validation.
        """
        called_with = dict(locals())
        from scfoundry.model.langcell._training import objective_weights, pretrain

        weights = objective_weights(stage, loss_weights)
        cells = self._training_cells(self.registered_cells("LangCell.train"))
        texts = None
        if stage == 2:
            if not (columns := self._texts()).shape[1]:
                msg = (
                    "Stage 2 learns from texts, but none are registered: "
                    'LangCell.setup_anndata(adata, text_keys="description"), where sf.tl.describe_cells(adata) writes '
                    "one."
                )
                raise ValueError(msg)
            texts = CellTexts(columns, self.tokenizer)
        how = {name: called_with[name] for name in ("lr", "weight_decay", "warmup_steps", "schedule", "seed")}
        trainer_kwargs |= {"batch_size": batch_size, "part_size": part_size, "validation_size": validation_size}
        trainer_kwargs |= {"max_epochs": max_epochs, "checkpoint_dir": checkpoint_dir, "called_with": called_with}
        pretrain(self, cells, texts, weights, stage=stage, contrast=contrast, plan_kwargs=how, **trainer_kwargs)

    def fine_tune_texts(
        self,
        adata: AnnData | Cells,
        labels: Sequence[str | None] | np.ndarray,
        texts: Mapping[str, str],
        *,
        layer: str | None = None,
        n_shots: int | None = None,
        train: TunedPart = "all",
        losses: Mixture | None = None,
        max_epochs: int = 20,
        lr: float = 1e-5,
        batch_size: int = 12,
        loss: LabelLoss = PLAIN,
        seed: int = 0,
        **trainer_kwargs: Any,
    ) -> None:
        """Fine-tune on labelled cells through the texts of their labels; `sf.tl.zero_shot_annotate` then uses them.

        Parameters
        ----------
        adata
            Any AnnData with raw counts, or the `Cells` of one; it is only read.
        labels
            Label of every cell, a Series by its index; cells where it is missing are left out.
        texts
            Label -> its text. All of them compete, also those without cells.
        layer
            Layer with the counts, ``X`` if `None`.
        n_shots
            Cells per label, drawn at random; all if `None`.
        train
            ``"all"``, or ``"head"`` for the projections alone.
        losses
            Beside the cross-entropy of similarities, ``"released"`` takes that of the match probabilities as if they
            were logits, with the matching head frozen; ``"corrected"`` that of the log odds of a match, and the head
            learns. As the model's ``mixture`` if `None`.
        max_epochs, lr, batch_size
            Of the training by Adam at a constant rate, as published.
        loss
            What is minimised of either scores, cross-entropy as published.
        seed
            Of the draw of cells and everything random in training.
        **trainer_kwargs
            ``lora``, ``gradient_checkpointing`` (:doc:`/guide/large`), and others of scvi-tools' `~scvi.train.Trainer`.

        Examples
        --------
        >>> texts = {"B cell": "cell type: B cell.", "monocyte": "cell type: monocyte."}
        >>> model.fine_tune_texts(reference, reference.obs["cell_type"], texts, n_shots=5)
        """
        from scfoundry.model.langcell._few_shot import LabelTextLosses, learn_texts

        read = self._cells(adata, layer, "LangCell.fine_tune_texts")
        coded, rows = labelled_cells(in_obs_order(labels, read.names, "labels"), list(texts), read.names, n_shots, seed)
        cells = self._training_cells(read)
        words = self.tokenizer(list(texts.values()))
        kind = self.config.mixture if losses is None else losses
        minimised = loss_of_sizes(loss, coded[rows], len(texts))
        learns = LabelTextLosses(self.module, cells, coded, words, losses=kind, minimised=minimised)
        how: dict[str, Any] = {"lr": lr, "batch_size": batch_size, "seed": seed, "max_epochs": max_epochs}
        learn_texts(self, learns, rows, train=train, **how, **trainer_kwargs)

    def train_classifier(
        self,
        adata: AnnData | Cells,
        labels: Sequence[str | None] | np.ndarray,
        *,
        layer: str | None = None,
        n_shots: int | None = None,
        train: TunedPart = "all",
        max_epochs: int = 20,
        lr: float | None = None,
        batch_size: int = 16,
        validation_size: float = 0.1,
        patience: int = 5,
        loss: LabelLoss = PLAIN,
        seed: int = 0,
        **trainer_kwargs: Any,
    ) -> None:
        """Learn cell types from labelled cells with a classification head on the cell encoder (LangCell-CE).

        A head that is already there is replaced. The head and the names of its classes are saved with the model.

        Parameters
        ----------
        adata
            Reference with raw counts, or the `Cells` of one; it is only read.
        labels
            Label of every cell, a Series by its index; cells where it is missing are left out.
        layer
            Layer with the counts, ``X`` if `None`.
        n_shots
            Cells per class, drawn at random; all if `None`.
        train
            ``"all"``, or ``"head"`` for the last layer alone on the frozen encoder.
        max_epochs, batch_size
            Passes over the cells, and cells per step.
        lr
            Of AdamW, falling linearly. If `None`, 5e-5 for all and 5e-3 for the head, as published for 512 channels,
            and in proportion more for fewer.
        validation_size
            Share of every class held out (rounded down) to stop early and keep the best weights. Where nothing is held
            out, the last weights stay.
        patience
            Epochs without improvement before training stops.
        loss
            What is minimised, cross-entropy as published. Training stops by cross-entropy whatever it is. If the sizes
            of classes enter it, probabilities are for classes of one size.
        seed
            Of the head, the draw of cells, the split and everything random in training.
        **trainer_kwargs
            ``lora``, ``gradient_checkpointing`` (:doc:`/guide/large`), and others of scvi-tools' `~scvi.train.Trainer`.

        Examples
        --------
        >>> model.train_classifier(reference, reference.obs["cell_type"], n_shots=9, train="head")
        >>> model.config.classes, model.predict_classes(adata)
        """
        from scfoundry.model.langcell._classifier import class_logits, learn

        read = self._cells(adata, layer, "LangCell.train_classifier")
        classes, coded, rows = classes_of_cells(labels, read.names, n_shots, seed)
        self._attach_head(classes, multilabel=False, seed=seed)
        cells = self._training_cells(read)
        split = stratified_split(coded, validation_size, rows, np.random.default_rng(seed))
        sized = loss_of_sizes(loss, coded[split[0]], len(classes))
        logits = partial(class_logits, self.module, cells)
        learns = ClassificationLoss(self.module, logits, coded, sized, F.cross_entropy)
        how: dict[str, Any] = {"batch_size": batch_size, "patience": patience, "max_epochs": max_epochs}
        how |= {"cells": cells, "plan_kwargs": {"lr": lr, "seed": seed}}
        learn(self, learns, split, train=train, **how, **trainer_kwargs)
        compute = Compute.resolve()
        warn_of_one_class(lambda of: self.class_probabilities(read.take(of), compute), coded, rows, classes, seed)

    def train_multilabel(
        self,
        adata: AnnData | Cells,
        targets: np.ndarray | pd.DataFrame,
        *,
        layer: str | None = None,
        train: TunedPart = "all",
        gamma: float = 2.0,
        alpha: float = 0.25,
        max_epochs: int = 20,
        lr: float | None = None,
        batch_size: int = 16,
        validation_size: float = 0.1,
        patience: int = 5,
        seed: int = 0,
        **trainer_kwargs: Any,
    ) -> None:
        """Learn labels of which a cell may have several, such as active pathways, by a focal loss.

        Parameters
        ----------
        adata
            Reference with raw counts, or the `Cells` of one; it is only read.
        targets
            Which labels a cell has, 0 or 1, (n_obs, C); the columns of a table name them, and its index the cells.
        gamma, alpha
            Of the focal loss: how little what is easy counts, and the weight of labels that are there.
        layer, train, max_epochs, lr, batch_size, validation_size, patience, seed, **trainer_kwargs
            As in `train_classifier`; the split is not stratified.

        Examples
        --------
        >>> model.train_multilabel(reference, reference.obsm["active_pathways"])
        """
        from scfoundry.model.langcell._classifier import class_logits, labels_of_cells, learn

        read = self._cells(adata, layer, "LangCell.train_multilabel")
        values, names = labels_of_cells(in_obs_order(targets, read.names, "targets"), read.n_obs)
        self._attach_head(names, multilabel=True, seed=seed)
        cells = self._training_cells(read)
        logits = partial(class_logits, self.module, cells)
        loss = ClassificationLoss(self.module, logits, values, partial(focal_loss, gamma=gamma, alpha=alpha))
        alike, rows = np.zeros(read.n_obs, dtype=np.int64), np.arange(read.n_obs)
        split = stratified_split(alike, validation_size, rows, np.random.default_rng(seed))
        how: dict[str, Any] = {"batch_size": batch_size, "patience": patience, "max_epochs": max_epochs}
        how |= {"cells": cells, "plan_kwargs": {"lr": lr, "seed": seed}}
        learn(self, loss, split, train=train, **how, **trainer_kwargs)

    def predict_classes(
        self,
        adata: AnnData | Cells,
        *,
        layer: str | None = None,
        batch_size: int | None = None,
        device: str = "auto",
        precision: Precision = "auto",
    ) -> np.ndarray:
        """Probability of every class by the classification head.

        Parameters
        ----------
        adata
            Any AnnData, in memory, backed or dask, or the `Cells` of one.
        layer, batch_size, device, precision
            As in `LangCell.get_latent_representation`.

        Returns
        -------
        float32 array, (n_obs, C), its columns in the order of ``config.classes``. Rows sum to 1, unless the head
        learned several labels per cell.

        Raises
        ------
        ValueError
            If the model has no classification head.
        """
        cells = self._cells(adata, layer, "LangCell.predict_classes")
        return self.class_probabilities(cells, Compute.resolve(device, precision, batch_size))

    def class_probabilities(self, cells: Cells, compute: Compute) -> np.ndarray:
        """Probabilities of the classes by the head, float32, (n_obs, C)."""
        from scfoundry.model.langcell._classifier import class_probabilities

        if not self.config.n_classes:
            msg = "This model has no classification head yet: model.train_classifier(reference, labels) makes one."
            raise ValueError(msg)
        with compute.autocast():
            return class_probabilities(self.module, self.stream(cells.reader, compute))

    def _attach_head(self, classes: Sequence[str], *, multilabel: bool, seed: int) -> None:
        """Give the model a new classification head; the names of its classes become part of the configuration."""
        self._change_config(n_classes=len(classes), classes=tuple(classes), multilabel=multilabel)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            head = ClassificationHead(self.config.n_hidden, len(classes), self.config.dropout)
        self.module.classifier = head.to(self.module.device)
