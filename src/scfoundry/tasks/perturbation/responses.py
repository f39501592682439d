"""Measured responses: mean log expression of perturbed cells and of their controls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from scfoundry.data.matrix.checks import to_linear
from scfoundry.data.matrix.loaders import row_blocks
from scfoundry.data.matrix.log_normalisation import TARGET_SUM

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from numpy.typing import NDArray

    from scfoundry.data.matrix.state import MatrixState
    from scfoundry.tasks.perturbation.conditions import Condition

    Array = NDArray[np.float64]

__all__ = ["Responses", "measure_responses", "profiles"]

LEAST_SPREAD = 1e-3
"""Of the largest standard deviation: a gene that never varies would otherwise count as infinitely certain."""

LEAST_GROUPS = 3
"""Groups with one perturbation that say how its effect depends on the level of the controls."""

LEAST_SIGNAL = 0.1
"""Share of the variance of control levels over groups that must be more than noise."""


@dataclass(frozen=True)
class Responses:
    """Means over the cells of n conditions and of the controls of their groups, log1p of counts per 10,000.

    Attributes
    ----------
    conditions
        The n conditions, sorted.
    means
        Mean profiles, (n, G).
    n_cells
        Cells of every condition, (n,).
    controls
        Mean control profile by group, (G,) each.
    n_controls
        Control cells by group.
    spread
        Standard deviation of every gene among like cells, (G,).
    """

    conditions: list[Condition]
    means: Array
    n_cells: Array
    controls: dict[str, Array]
    n_controls: dict[str, int]
    spread: Array

    def changes(self) -> Array:
        """Mean of every condition less that of the controls of its group, (n, G)."""
        return self.means - np.array([self.controls[condition.group] for condition in self.conditions])

    def noise(self, reversion: float = 0.0) -> Array:
        """Covariance of the changes per unit of variance among like cells, (n, n): groups share their controls.

        Of changes from which ``reversion`` times the level of the controls was subtracted, the noise of the controls is
        in part gone.
        """
        groups = np.array([condition.group for condition in self.conditions])
        shared = np.array([(1 + reversion) ** 2 / self.n_controls[group] for group in groups])
        return np.diag(1 / self.n_cells) + np.where(groups[:, None] == groups, shared, 0.0)

    def reversion(self) -> float:
        r"""How far a perturbed level forgets the level of the controls, between 0 and -1.

        A drug that silences a gene lowers it most where it was high. Over groups :math:`i` with the same perturbation,
        changes are regressed on control levels, one slope for all genes; the noise of the controls, which would pull
        the slope towards -1 on its own, is taken out.
        """
        products, squares, expected = 0.0, 0.0, 0.0
        parts = sorted({condition.parts for condition in self.conditions})
        for part in parts:
            rows = [i for i, condition in enumerate(self.conditions) if condition.parts == part]
            if len(rows) < LEAST_GROUPS:
                continue
            groups = [self.conditions[i].group for i in rows]
            levels = np.array([self.controls[group] for group in groups])
            levels, after = levels - levels.mean(0), self.means[rows] - self.means[rows].mean(0)
            products += float((levels * after).sum())
            squares += float((levels**2).sum())
            per_cell = sum(1 / self.n_controls[group] for group in groups) * (1 - 1 / len(rows))
            expected += float((self.spread**2).sum()) * per_cell
        signal = squares - expected
        return float(np.clip(products / signal - 1, -1, 0)) if signal > LEAST_SIGNAL * squares else 0.0


def profiles(
    adata: AnnData, codes: NDArray[np.int64], n_codes: int, *, layer: str | None, state: MatrixState
) -> tuple[Array, Array, Array]:
    """Cells per code, (n,), and sums of log expression and of its square, (n, G); -1 leaves a cell out."""
    n_cells = np.bincount(codes[codes >= 0], minlength=n_codes).astype(np.float64)
    sums, squares = np.zeros((2, n_codes, adata.n_vars))
    for rows, block in row_blocks(adata, layer=layer, rows=np.flatnonzero(codes >= 0)):
        linear = to_linear(block, state).astype(np.float64)
        totals = np.asarray(linear.sum(1)).ravel()
        scale = np.divide(TARGET_SUM, totals, out=np.zeros_like(totals), where=totals > 0)
        log = sparse.csr_matrix(sparse.diags(scale) @ linear).log1p()
        here = codes[rows]
        belongs = sparse.csr_matrix((np.ones(len(here)), (here, np.arange(len(here)))), shape=(n_codes, len(here)))
        sums += np.asarray((belongs @ log).todense())
        squares += np.asarray((belongs @ log.power(2)).todense())
    return n_cells, sums, squares


def measure_responses(
    adata: AnnData,
    conditions: Sequence[Condition | None],
    *,
    layer: str | None,
    state: MatrixState,
) -> Responses:
    """Means over the cells of every condition.

    Parameters
    ----------
    adata
        Cells x genes; it is only read.
    conditions
        Condition of every cell, without parts for controls; `None` leaves a cell out. Every group has controls.
    layer
        Layer with the values, ``X`` if `None`.
    state
        What state they are in.
    """
    names = sorted({condition for condition in conditions if condition is not None})
    number = {condition: i for i, condition in enumerate(names)}
    codes = np.array([-1 if condition is None else number[condition] for condition in conditions], dtype=np.int64)
    n_cells, sums, squares = profiles(adata, codes, len(names), layer=layer, state=state)
    means = sums / n_cells[:, None]
    within = (squares - n_cells[:, None] * means**2).sum(0).clip(min=0)
    spread = np.sqrt(within / max(1.0, n_cells.sum() - len(names)))
    perturbed = np.array([bool(condition.parts) for condition in names])
    control = {names[i].group: i for i in np.flatnonzero(~perturbed)}
    return Responses(
        conditions=[condition for condition in names if condition.parts],
        means=means[perturbed],
        n_cells=n_cells[perturbed],
        controls={group: means[i] for group, i in control.items()},
        n_controls={group: int(n_cells[i]) for group, i in control.items()},
        spread=spread.clip(min=max(LEAST_SPREAD * float(spread.max()), np.finfo(np.float64).tiny)),
    )
