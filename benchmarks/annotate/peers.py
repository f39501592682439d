"""What else names cells by a reference: CellTypist, and logistic regression on all genes."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

import numpy as np
import scanpy as sc
from annotation.splits import LABEL
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

if TYPE_CHECKING:
    from collections.abc import Callable

    from anndata import AnnData
    from annotation.splits import Split
    from numpy.typing import NDArray

__all__ = ["peers"]


def peers() -> dict[str, Callable[[Split, int], NDArray[np.str_]]]:
    """Every peer that is installed, as a function of split and seed."""
    found: dict[str, Callable[[Split, int], NDArray[np.str_]]] = {"logistic regression": logistic_regression}
    if importlib.util.find_spec("celltypist") is None:
        print("CellTypist is not installed and left out: pip install celltypist")
        return found
    return found | {
        "CellTypist": celltypist,
        "CellTypist, feature selection": lambda split, seed: celltypist(split, seed, feature_selection=True),
    }


def logistic_regression(split: Split, seed: int) -> NDArray[np.str_]:
    """Multinomial, on standardised log expression of the shared genes."""
    reference, query = (np.asarray(cells.X.todense()) for cells in log_normalised(split))
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000, random_state=seed))
    return model.fit(reference, split.reference.obs[LABEL]).predict(query)


def celltypist(split: Split, seed: int, *, feature_selection: bool = False) -> NDArray[np.str_]:
    """CellTypist with stochastic gradient descent; its other solver needs an older scikit-learn."""
    import celltypist as package

    package.logger.set_level(40)
    reference, query = log_normalised(split)
    how: dict[str, Any] = {"use_SGD": True, "feature_selection": feature_selection, "random_state": seed}
    model = package.train(reference, labels=LABEL, **how)
    told = package.annotate(query, model=model, majority_voting=False).predicted_labels["predicted_labels"]
    return told.to_numpy().astype(str)


def log_normalised(split: Split) -> tuple[AnnData, AnnData]:
    """Log1p of counts per 10,000 of the genes that both sides measured."""
    shared = split.reference.var_names.intersection(split.query.var_names)
    sides = split.reference[:, shared].copy(), split.query[:, shared].copy()
    for cells in sides:
        sc.pp.normalize_total(cells, target_sum=1e4)
        sc.pp.log1p(cells)
    return sides
