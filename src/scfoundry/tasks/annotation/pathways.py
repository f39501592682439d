"""Pathway identification: labels of which a cell may have several (Zhao et al. 2024, section 4.4)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np
from sklearn.linear_model import LogisticRegression

from scfoundry._device import resolve_device, trainer_arguments
from scfoundry.tasks.annotation.features import CellFeatures

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

    from scfoundry._device import Precision
    from scfoundry.model._contracts import Query, Train
    from scfoundry.model.langcell._model import LangCell

__all__ = ["IdentifiesPathways"]

MAX_STEPS = 1000


class IdentifiesPathways:
    """The part of `LangCell` that `sf.tl.identify_pathways` uses."""

    _pathways: tuple[list[LogisticRegression], CellFeatures] | None = None

    def fit_pathways(
        self,
        adata: AnnData,
        targets: pd.DataFrame,
        *,
        query: Query | None = None,
        genes: NDArray[np.int64] | None = None,
        train: Train | None = None,
        layer: str | None = None,
        max_epochs: int | None = None,
        seed: int = 0,
        device: str = "auto",
        precision: Precision = "auto",
    ) -> Self:
        """Learn which pathways are active, in a copy of this model.

        Ranked genes: `train_multilabel`, by a focal loss. Standardised expression: one logistic regression per pathway
        on the embedding and on the principal components of reference and query together.

        Parameters
        ----------
        adata
            Cells to learn from; it is only read.
        targets
            0 or 1 for every cell and pathway, (n_obs, P).
        query, genes, layer, device, precision
            As in `fit_labels`.
        train
            ``"all"`` weights (a transformer's way if `None`) or the ``"head"``.
        max_epochs
            Passes over the cells, 20 if `None`; of ranked genes only.
        seed
            Of everything random in training.

        Returns
        -------
        The copy, whose `predict_pathways` identifies them.

        Raises
        ------
        ValueError
            If targets are not 0 or 1, or weights that learn by a head alone are to be trained as a whole.
        """
        base = cast("LangCell", self)
        model = base.copy()
        if model.config.cell_encoder == "rank_bert":
            how: dict[str, Any] = {} if max_epochs is None else {"max_epochs": max_epochs}
            how |= {"layer": layer, "seed": seed} | trainer_arguments(resolve_device(device), precision)
            model.train_multilabel(adata, targets, train=train or "all", **how)
            return cast("Self", model)
        if train == "all" or max_epochs is not None:
            msg = (
                f"The weights {base.provenance['weights']!r} stay as they are: a head on them is fitted until it is "
                f"best, without epochs; got train={train!r}, max_epochs={max_epochs}. Leave both out."
            )
            raise ValueError(msg)
        by_name = np.argsort(adata.obs_names.to_numpy().astype(str), kind="stable")
        reader = model._reader(adata, layer, "LangCell.fit_pathways")
        latent = model._embed(reader, batch_size=None, device=resolve_device(device), precision=precision)
        features, components = CellFeatures.of(reader, query, genes)
        cells = features(latent, components)[by_name]
        active = targets.to_numpy(dtype=np.int64)[by_name]
        heads = [LogisticRegression(max_iter=MAX_STEPS).fit(cells, of_pathway) for of_pathway in active.T]
        model._pathways = heads, features
        return cast("Self", model)

    def predict_pathways(
        self,
        adata: AnnData,
        *,
        layer: str | None = None,
        batch_size: int | None = None,
        device: str = "auto",
        precision: Precision = "auto",
    ) -> NDArray[np.float32]:
        """Probability that each pathway is active in each cell, (n_obs, P), each on its own.

        Raises
        ------
        ValueError
            If none were learned.
        """
        model = cast("LangCell", self)
        how: dict[str, Any] = {"batch_size": batch_size, "precision": precision}
        if self._pathways is None:
            return model.predict_classes(adata, layer=layer, device=device, **how)
        heads, features = self._pathways
        reader = model._reader(adata, layer, "LangCell.predict_pathways")
        latent = model._embed(reader, device=resolve_device(device), **how)
        cells = features(latent, features.components(reader))
        return np.stack([head.predict_proba(cells)[:, 1] for head in heads], axis=1).astype(np.float32)
