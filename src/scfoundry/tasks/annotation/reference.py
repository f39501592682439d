"""How a LangCell learns the labels of a reference: in the way that suits its weights and the number of cells."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np

from scfoundry._device import resolve_device, trainer_arguments
from scfoundry.model.langcell._matching import ZeroShot
from scfoundry.tasks.annotation.features import CellFeatures
from scfoundry.tasks.annotation.text_prior import TextPriorHead

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from numpy.typing import NDArray

    from scfoundry._device import Precision
    from scfoundry.data.labels import Label
    from scfoundry.data.matrix.reader import CountsReader
    from scfoundry.model._contracts import Query, Train
    from scfoundry.model.langcell._model import LangCell

__all__ = ["LearnsReference"]

# Up to this many cells per label, learning through the texts of the labels is better than a head (Zhao et al. 2024).
FEW_CELLS = 9


class LearnsReference:
    """The part of `LangCell` that `sf.tl.annotate` uses."""

    _labels: tuple[Label, ...] = ()
    _head: tuple[TextPriorHead, CellFeatures] | None = None

    def fit_labels(
        self,
        adata: AnnData,
        labels: Sequence[Label],
        codes: NDArray[np.int64],
        *,
        query: Query | None = None,
        genes: NDArray[np.int64] | None = None,
        train: Train | None = None,
        layer: str | None = None,
        batch_key: str | None = None,
        max_epochs: int | None = None,
        seed: int = 0,
        device: str = "auto",
        precision: Precision = "auto",
    ) -> Self:
        """Learn the labels of a reference, in a copy of this model.

        Ranked genes: with few cells per label through the texts of the labels (`fine_tune_texts`), with many by a
        classification head (`train_classifier`). Standardised expression: by a linear head on the embedding and on the
        principal components of reference and query together, which starts from what the texts say; annotated cells that
        lie together are then brought to agree, as in `zero_shot`.

        Parameters
        ----------
        adata
            Labelled cells; it is only read.
        labels
            P labels with their texts.
        codes
            Number of the label of every cell, (n_obs,).
        query
            Cells to annotate, which have a say in the axes of components; those of the reference alone if `None`. Of
            no effect on a transformer, which reads every cell by itself.
        genes
            Vocabulary positions of the genes that components are found by; those of the reference if `None`.
        batch_key
            Of no effect.
        train
            ``"all"`` weights or the ``"head"``; what suits the weights if `None`.
        layer
            Layer with the counts, ``X`` if `None`.
        max_epochs
            Passes over the cells, 20 as published if `None`; of ranked genes only.
        seed
            Of everything random in training.
        device, precision
            As in `get_latent_representation`.

        Returns
        -------
        The copy, whose `predict_labels` annotates.

        Raises
        ------
        ValueError
            If all weights are to be trained of a model that has no way to, or passes are asked of one that makes none.
        """
        base = cast("LangCell", self)
        model = base.copy()
        model._labels = tuple(labels)
        # Cells are read as they lie, which is fast on disk, and learned by name: their order plays no part.
        by_name = np.argsort(adata.obs_names.to_numpy().astype(str), kind="stable")
        if model.config.cell_encoder == "expression_mlp":
            if train == "all":
                msg = (
                    f"The weights {base.provenance['weights']!r} are learned as a whole by LangCell.train only; a "
                    'reference trains a head on them: train="head".'
                )
                raise ValueError(msg)
            if max_epochs is not None:
                msg = (
                    f"The weights {base.provenance['weights']!r} learn a reference by a head that is fitted until it "
                    f"is best, without epochs; got max_epochs={max_epochs}. Leave it out: max_epochs=None."
                )
                raise ValueError(msg)
            reader = model._reader(adata, layer, "LangCell.fit_labels")
            latent, prior = _evidence(model, reader, device=device, precision=precision)
            features, components = CellFeatures.of(reader, query, genes)
            head = TextPriorHead.fit(
                features(latent, components)[by_name],
                prior[by_name],
                codes[by_name],
                device=resolve_device(device),
            )
            model._head = head, features
            return cast("Self", model)
        adata, codes = adata[by_name], codes[by_name]
        names = np.array([label.name for label in labels], dtype=object)[codes]
        how: dict[str, Any] = {} if max_epochs is None else {"max_epochs": max_epochs}
        how |= {"layer": layer, "seed": seed} | trainer_arguments(resolve_device(device), precision)
        if train != "head" and np.bincount(codes).max() <= FEW_CELLS:
            model.fine_tune_texts(adata, names, {label.name: label.texts[0] for label in labels}, **how)
        else:
            model.train_classifier(adata, names, train=train or "all", **how)
        return cast("Self", model)

    def predict_labels(
        self,
        adata: AnnData,
        *,
        layer: str | None = None,
        batch_key: str | None = None,
        batch_size: int | None = None,
        device: str = "auto",
        precision: Precision = "auto",
    ) -> NDArray[np.float32]:
        """Probability of every label that `fit_labels` learned, (n_obs, P).

        Raises
        ------
        ValueError
            If no labels were learned.
        """
        model = cast("LangCell", self)
        how: dict[str, Any] = {"layer": layer, "batch_size": batch_size, "device": device, "precision": precision}
        if not self._labels:
            msg = "This model has learned no labels yet: fitted = model.fit_labels(reference, labels, codes)."
            raise ValueError(msg)
        if self._head is not None:
            reader = model._reader(adata, layer, "LangCell.predict_labels")
            latent, prior = _evidence(model, reader, batch_size=batch_size, device=device, precision=precision)
            head, features = self._head
            components = features.components(reader)
            told = ZeroShot(head(features(latent, components), prior), prior, None)
            if model.config.adapt:
                told = told.adapted(components, temperature=model.config.adapted_temperature)
            return told.probabilities
        if model.config.n_classes:
            return model.predict_classes(adata, **how)
        return model.zero_shot(adata, _by_first_text(self._labels), **how).probabilities


def _evidence(
    model: LangCell,
    reader: CountsReader,
    *,
    device: str,
    precision: Precision,
    batch_size: int | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What a head reads: embeddings (n_obs, Z), and probabilities of the labels by their texts (n_obs, P)."""
    latent = model._embed(reader, batch_size=batch_size, device=resolve_device(device), precision=precision)
    # A few shots are no data set to adapt to.
    told = model.zero_shot(
        reader, model._labels, adapt=False, batch_size=batch_size, device=device, precision=precision
    )
    return latent, told.probabilities


def _by_first_text(labels: Sequence[Label]) -> list[Label]:
    return [replace(label, texts=label.texts[:1]) for label in labels]
