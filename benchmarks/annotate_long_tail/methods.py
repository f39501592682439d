"""What names cells by a reference whose labels are of very unequal size: our losses, and peers on all genes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import scfoundry as sf
from benchmarks.annotate_long_tail.tasks import LABEL
from benchmarks.peers import log_normalised
from scfoundry.nn.losses import GInf

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anndata import AnnData
    from numpy.typing import NDArray

    from benchmarks.annotate_long_tail.tasks import Split


__all__ = ["ALL_WEIGHTS", "BASE", "LOSSES", "Method", "Named", "annotated", "peers"]

BASE = "class-weighted logistic regression"
LOSSES: dict[str, dict[str, Any]] = {
    "cross-entropy": {"loss": "cross_entropy"},
    "focal": {"loss": "focal"},
    "balanced softmax": {"loss": "balanced_softmax"},
    "GInf without prior": {"loss": GInf(prior=False)},
    "GInf": {"loss": "ginf"},
    "GInf + HDM, n = 20": {"loss": "ginf", "hard_mining": 20},
    "GInf + HDM, n = C/3": {"loss": "ginf", "hard_mining": True},
}
ALL_WEIGHTS: dict[str, dict[str, Any]] = {
    f"all weights, {name}": {"train": "all"} | LOSSES[name] for name in ("cross-entropy", "GInf + HDM, n = C/3")
}


class Named(NamedTuple):
    """Labels of the query and their probabilities, (n,)."""

    labels: NDArray[np.str_]
    score: NDArray[np.floating]
    corrected: NDArray[np.floating] | None = None  # where labels are as frequent as in the reference


Method = Callable[["Split", int], Named]


def annotated(split: Split, seed: int, *, model: Any, how: Mapping[str, Any]) -> Named:
    """Labels by the verb."""
    verb: dict[str, Any] = {"labels_key": LABEL, "model": model, "rng": seed, "copy": True}
    done = sf.tl.annotate(split.query, split.reference, **verb, **how)
    labels, score = done.obs["annotation"].astype(str).to_numpy(), done.obs["annotation_score"].to_numpy()
    if how.get("loss") not in ("balanced_softmax", "ginf"):
        return Named(labels, score)
    sizes = done.uns["annotation"]["reference"]["n_cells"].to_numpy()
    shares = done.obsm["annotation_scores"].to_numpy() * sizes
    shares /= np.maximum(shares.sum(1, keepdims=True), np.finfo(np.float32).tiny)
    places = np.maximum(done.obs["annotation"].cat.categories.get_indexer(labels), 0)
    known = labels != "unknown"
    return Named(labels, score, np.where(known, shares[np.arange(len(labels)), places * known], 0.0))


def peers(*, with_celltypist: bool) -> dict[str, Method]:
    """Logistic regression, and CellTypist if it is asked for."""
    found: dict[str, Method] = {
        "logistic regression": lambda split, _: logistic_regression(split, class_weight=None),
        BASE: lambda split, _: logistic_regression(split, class_weight="balanced"),
    }
    return found | ({"CellTypist": celltypist} if with_celltypist else {})


def logistic_regression(split: Split, *, class_weight: str | None) -> Named:
    """Multinomial, on standardised log expression of all genes."""
    reference, query = (_dense(log_normalised(cells)) for cells in (split.reference, split.query))
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000, class_weight=class_weight))
    probabilities = model.fit(reference, split.reference.obs[LABEL].to_numpy()).predict_proba(query)
    return Named(model.classes_[probabilities.argmax(1)].astype(str), probabilities.max(1))


def celltypist(split: Split, seed: int) -> Named:
    """CellTypist with stochastic gradient descent; its other solver needs an older scikit-learn."""
    import celltypist as package

    package.logger.set_level(40)
    reference, query = log_normalised(split.reference), log_normalised(split.query)
    model = package.train(reference, labels=LABEL, use_SGD=True, feature_selection=False, random_state=seed)
    found = package.annotate(query, model=model, majority_voting=False)
    labels = found.predicted_labels["predicted_labels"].to_numpy().astype(str)
    return Named(labels, found.probability_matrix.to_numpy().max(1))


def _dense(adata: AnnData) -> NDArray[np.floating]:
    return np.asarray(adata.X.todense() if sparse.issparse(adata.X) else adata.X)
