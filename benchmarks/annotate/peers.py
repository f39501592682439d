"""What else names cells by a reference: CellTypist, and logistic regression on all genes."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

from benchmarks.annotate.tasks import LABEL
from benchmarks.peers import log_normalised, logistic_regression

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from anndata import AnnData
    from numpy.typing import NDArray

    from benchmarks.annotate.tasks import Split

__all__ = ["peers"]


def peers() -> dict[str, Callable[[Split, int], NDArray[np.str_]]]:
    """Every peer that is installed, as a function of split and seed."""
    found: dict[str, Callable[[Split, int], NDArray[np.str_]]] = {"logistic regression": by_all_genes}
    if importlib.util.find_spec("celltypist") is None:
        print("CellTypist is not installed and left out: pip install celltypist")
        return found
    return found | {
        "CellTypist": celltypist,
        "CellTypist, feature selection": lambda split, seed: celltypist(split, seed, feature_selection=True),
    }


def by_all_genes(split: Split, seed: int) -> NDArray[np.str_]:
    """Multinomial, on standardised log expression of the shared genes."""
    reference, query = (cells.X.toarray() for cells in on_shared_genes(split))
    return logistic_regression(reference, split.reference.obs[LABEL].to_numpy(), query)


def celltypist(split: Split, seed: int, *, feature_selection: bool = False) -> NDArray[np.str_]:
    """CellTypist with stochastic gradient descent; its other solver needs an older scikit-learn."""
    import celltypist as package

    package.logger.set_level(40)
    reference, query = on_shared_genes(split)
    how: dict[str, Any] = {"use_SGD": True, "feature_selection": feature_selection, "random_state": seed}
    model = package.train(reference, labels=LABEL, **how)
    named = package.annotate(query, model=model, majority_voting=False).predicted_labels["predicted_labels"]
    return named.to_numpy().astype(str)


def on_shared_genes(split: Split) -> tuple[AnnData, AnnData]:
    """Log1p of counts per 10,000 of the genes that both data sets measured."""
    shared = split.reference.var_names.intersection(split.query.var_names)
    return log_normalised(split.reference[:, shared]), log_normalised(split.query[:, shared])
