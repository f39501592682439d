"""Multinomial logistic regression on features that may be sparse, fitted until it is best."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import optimize, special

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy import sparse

__all__ = ["fit_softmax"]

MAX_STEPS = 300
# Of the loss: a step that gains less is the last.
TOLERANCE = 1e-6


def fit_softmax(
    features: NDArray[np.float64] | sparse.csr_matrix, codes: NDArray[np.int64], n_classes: int, *, ridge: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    r"""Fit weights and bias of every class.

    .. math:: \min_{W, b} \sum_i -\log \operatorname{softmax}(W^\top x_i + b)_{y_i} + \tfrac{r}{2} \lVert W \rVert^2

    Parameters
    ----------
    features
        Of n examples, (n, F).
    codes
        Class of every example, (n,).
    n_classes
        Number of classes C.
    ridge
        :math:`r`. The bias is free.

    Returns
    -------
    Weights (F, C) and bias (C,).

    Examples
    --------
    >>> import numpy as np
    >>> weights, bias = fit_softmax(np.array([[0.0], [1.0], [2.0], [3.0]]), np.array([0, 0, 1, 1]), 2, ridge=0.1)
    >>> (np.array([[0.5], [2.5]]) @ weights + bias).argmax(1)
    array([0, 1])
    """
    n, n_features = features.shape
    rows = np.arange(n)
    turned = features.T

    def loss(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        weights, bias = flat[n_classes:].reshape(n_features, n_classes), flat[:n_classes]
        log_p = special.log_softmax(features @ weights + bias, axis=1)
        excess = np.exp(log_p)
        excess[rows, codes] -= 1
        value = ridge / 2 * float(np.square(weights).sum()) - float(log_p[rows, codes].sum())
        return value, np.concatenate([excess.sum(0), (turned @ excess + ridge * weights).ravel()])

    start = np.zeros((n_features + 1) * n_classes)
    found = optimize.minimize(
        loss, start, jac=True, method="L-BFGS-B", options={"maxiter": MAX_STEPS, "ftol": TOLERANCE}
    )
    return found.x[n_classes:].reshape(n_features, n_classes), found.x[:n_classes]
