"""Multinomial logistic regression on features that may be sparse, fitted until it is best."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import optimize, sparse, special
from threadpoolctl import threadpool_limits

from scfoundry._settings import logger

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    LossOfLogits = Callable[[NDArray[np.float64]], tuple[float, NDArray[np.float64]]]

__all__ = ["softmax_regression"]

MAX_STEPS = 2000
# Largest entry of the gradient at which the fit has converged.
GRADIENT = 1e-6


def softmax_regression(
    features: NDArray[np.floating] | sparse.csr_matrix,
    codes: NDArray[np.int64],
    n_classes: int,
    *,
    ridge: float,
    bias_ridge: float = 0.0,
    offset: NDArray[np.floating] | None = None,
    loss_of_logits: LossOfLogits | None = None,
    start: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None,
    gradient: float = GRADIENT,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    r"""Fit weights (F, C) and bias (C,) to features (n, F) of n examples and their classes.

    .. math:: \min_{W, b} \sum_i -\log \operatorname{softmax}(o_i + W^\top x_i + b)_{y_i}
        + \tfrac{r}{2} \lVert W \rVert^2 + \tfrac{r_b}{2} \lVert b \rVert^2

    It is our own because neither scikit-learn nor statsmodels fits such a regression with an offset :math:`o`, logits
    (n, C). Where the bias is free (:math:`r_b = 0`), features are centred in passing, without making them dense: the
    optimum is the same, and found in a tenth of the steps. Another loss of the logits (n, C), summed over examples, is
    ``loss_of_logits``, which gives its value and its slopes, (n, C); ``start`` is where to begin, and
    ``gradient`` the largest entry of the gradient at which to end.
    """
    n, n_features = features.shape
    rows = np.arange(n)
    turned = sparse.csr_matrix(features.T) if sparse.issparse(features) else features.T
    free = bias_ridge == 0 and n > 0
    center = np.asarray(features.mean(0), dtype=np.float64).ravel() if free else np.zeros(n_features)

    def cross_entropy(logits: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        log_p = special.log_softmax(logits, axis=1)
        excess = np.exp(log_p)
        excess[rows, codes] -= 1
        return -float(log_p[rows, codes].sum()), excess

    data_loss = cross_entropy if loss_of_logits is None else loss_of_logits

    def loss(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        weights, bias = flat[n_classes:].reshape(n_features, n_classes), flat[:n_classes]
        logits = features @ weights + (bias - center @ weights)
        misfit, excess = data_loss(logits if offset is None else logits + offset)
        summed = excess.sum(0)
        value = ridge / 2 * float(np.square(weights).sum()) + bias_ridge / 2 * float(np.square(bias).sum())
        slopes = turned @ excess - np.outer(center, summed) + ridge * weights
        return value + misfit, np.concatenate([summed + bias_ridge * bias, slopes.ravel()])

    begin = np.zeros((n_features + 1) * n_classes)
    if start is not None:
        begin = np.concatenate([start[1] + center @ start[0], start[0].ravel()])
    options = {"maxiter": MAX_STEPS, "maxfun": 2 * MAX_STEPS, "ftol": 0.0, "gtol": gradient}
    # Steps take a millisecond, ten where threads of NumPy, SciPy and PyTorch wait for each other.
    with threadpool_limits(1, user_api="blas"):
        found = optimize.minimize(loss, begin, jac=True, method="L-BFGS-B", options=options)
    if found.nit >= MAX_STEPS:
        logger.warning("A softmax regression was stopped after %d steps, before it had converged.", MAX_STEPS)
    weights = found.x[n_classes:].reshape(n_features, n_classes)
    return weights, found.x[:n_classes] - center @ weights
