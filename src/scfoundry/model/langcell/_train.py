"""How a LangCell learns: the methods of the model that train it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd
from torch.nn import functional as F

from scfoundry._device import Compute
from scfoundry.data.matrix.cells import Cells
from scfoundry.model.langcell._classifier import (
    ClassLoss,
    attach_head,
    class_probabilities,
    labels_of_cells,
    learn,
    warn_of_one_class,
)
from scfoundry.model.langcell._few_shot import LabelTextLosses, labelled_cells, learn_texts
from scfoundry.model.langcell._objectives import focal_loss
from scfoundry.model.langcell._training import pretrain
from scfoundry.model.langcell._training_data import TrainingCells, in_obs_order
from scfoundry.stats.splits import stratified_split

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from anndata import AnnData

    from scfoundry._device import Precision
    from scfoundry.model.langcell._config import Mixture
    from scfoundry.model.langcell._few_shot import TunedPart
    from scfoundry.model.langcell._model import LangCell
    from scfoundry.model.langcell._training import Stage
    from scfoundry.train.plan import Schedule

__all__ = ["Teachable"]


class Teachable:
    """The part of `LangCell` that trains it."""

    def train(
        self,
        max_epochs: int = 3,
        *,
        stage: Stage = 2,
        loss_weights: Mapping[str, float] | None = None,
        lr: float = 1e-5,
        weight_decay: float = 1e-3,
        warmup_steps: int = 1000,
        schedule: Schedule = "linear",
        batch_size: int = 32,
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
        validation_size
            Share of cells held out.
        seed
            Seed of everything random in training. The same seed gives the same weights.
        checkpoint_dir
            Where to leave a checkpoint after every epoch. If one is there, training goes on from it.
        **trainer_kwargs
            ``accelerator``, ``devices``, ``strategy``, ``precision`` and further arguments of scvi-tools'
            `~scvi.train.Trainer`.

        Raises
        ------
        ValueError
            If there are no data, or stage 2 has no texts.

        Notes
        -----
        ``model.history`` holds ``loss`` and every objective per epoch, training and validation.
        """
        pretrain(
            cast("LangCell", self),
            stage=stage,
            loss_weights=loss_weights,
            max_epochs=max_epochs,
            lr=lr,
            weight_decay=weight_decay,
            warmup_steps=warmup_steps,
            schedule=schedule,
            batch_size=batch_size,
            validation_size=validation_size,
            seed=seed,
            checkpoint_dir=checkpoint_dir,
            **trainer_kwargs,
        )

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
        seed
            Of the draw of cells and everything random in training.
        **trainer_kwargs
            ``accelerator``, ``devices``, ``precision`` and further arguments of scvi-tools' `~scvi.train.Trainer`.

        Examples
        --------
        >>> texts = {"B cell": "cell type: B cell.", "monocyte": "cell type: monocyte."}
        >>> model.fine_tune_texts(reference, reference.obs["cell_type"], texts, n_shots=5)
        """
        model = cast("LangCell", self)
        read = model._cells(adata, layer, "LangCell.fine_tune_texts")
        coded, rows = labelled_cells(in_obs_order(labels, read.names, "labels"), list(texts), read.names, n_shots, seed)
        cells = TrainingCells(read.reader, model.genes, model.config.max_length)
        words = model.tokenizer(list(texts.values()))
        kind = model.config.mixture if losses is None else losses
        loss = LabelTextLosses(model.module, cells, coded, words, losses=kind)
        how: dict[str, Any] = {"lr": lr, "batch_size": batch_size, "seed": seed, "max_epochs": max_epochs}
        learn_texts(model, loss, rows, train=train, **how, **trainer_kwargs)

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
            Of AdamW, falling linearly; 5e-5 for all and 5e-3 for the head, as published, if `None`.
        validation_size
            Share of every class held out (rounded down) to stop early and keep the best weights. Where nothing is held
            out, the last weights stay.
        patience
            Epochs without improvement before training stops.
        seed
            Of the head, the draw of cells, the split and everything random in training.
        **trainer_kwargs
            ``accelerator``, ``devices``, ``precision`` and further arguments of scvi-tools' `~scvi.train.Trainer`.

        Examples
        --------
        >>> model.train_classifier(reference, reference.obs["cell_type"], n_shots=9, train="head")
        >>> model.config.classes, model.predict_classes(adata)
        """
        model = cast("LangCell", self)
        read = model._cells(adata, layer, "LangCell.train_classifier")
        labels = in_obs_order(labels, read.names, "labels")
        classes = sorted(pd.Series(labels).dropna().astype(str).unique())
        if len(classes) < 2:
            msg = f"A classifier tells at least 2 classes apart; the labels have {len(classes)}: {classes}."
            raise ValueError(msg)
        coded, rows = labelled_cells(labels, classes, read.names, n_shots, seed)
        attach_head(model, classes, multilabel=False, seed=seed)
        cells = TrainingCells(read.reader, model.genes, model.config.max_length)
        loss = ClassLoss(model.module, cells, coded, F.cross_entropy)
        split = stratified_split(coded, validation_size, rows, np.random.default_rng(seed))
        how: dict[str, Any] = {"lr": lr, "batch_size": batch_size, "patience": patience, "max_epochs": max_epochs}
        learn(model, loss, split, train=train, seed=seed, **how, **trainer_kwargs)
        warn_of_one_class(model, read, coded, rows, seed)

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
        model = cast("LangCell", self)
        read = model._cells(adata, layer, "LangCell.train_multilabel")
        values, names = labels_of_cells(in_obs_order(targets, read.names, "targets"), read.n_obs)
        attach_head(model, names, multilabel=True, seed=seed)
        cells = TrainingCells(read.reader, model.genes, model.config.max_length)
        loss = ClassLoss(model.module, cells, values, partial(focal_loss, gamma=gamma, alpha=alpha))
        alike, rows = np.zeros(read.n_obs, dtype=np.int64), np.arange(read.n_obs)
        split = stratified_split(alike, validation_size, rows, np.random.default_rng(seed))
        how: dict[str, Any] = {"lr": lr, "batch_size": batch_size, "patience": patience, "max_epochs": max_epochs}
        learn(model, loss, split, train=train, seed=seed, **how, **trainer_kwargs)

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
        model = cast("LangCell", self)
        cells = model._cells(adata, layer, "LangCell.predict_classes")
        return class_probabilities(model, cells, Compute.resolve(device, precision, batch_size))

    def _cells(self, adata: AnnData | Cells, layer: str | None, caller: str) -> Cells:
        """Cells as they are, or those of an AnnData, checked and aligned."""
        if isinstance(adata, Cells):
            return adata
        return Cells.of(adata, cast("LangCell", self).genes, layer=layer, caller=caller)
