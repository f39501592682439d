"""Measured responses: mean log expression of perturbed cells and of their controls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from scfoundry.data.matrix.log_normalisation import log_cp10k
from scfoundry.stats.groups import membership

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray
    from scipy import sparse

    from scfoundry.data.matrix.cells import Cells
    from scfoundry.tasks.perturbation.conditions import Condition

    Array = NDArray[np.float64]

__all__ = ["MeasuredResponses", "measure_responses", "profiles"]

# Of the largest standard deviation: a gene that never varies would otherwise count as infinitely certain.
LEAST_SPREAD = 1e-3
# Groups with one perturbation that say how its effect depends on the level of the controls.
LEAST_GROUPS = 3
# Share of the variance of control levels over groups that must be more than noise.
LEAST_SIGNAL = 0.1


@dataclass(frozen=True)
class MeasuredResponses:
    """Means over the cells of n conditions and of the controls of their groups, log1p of counts per 10,000."""

    conditions: list[Condition]  # sorted
    means: Array  # (n, G)
    n_cells: Array  # (n,)
    controls: dict[str, Array]  # mean profile by group, (G,) each
    n_controls: dict[str, int]  # cells by group
    spread: Array  # standard deviation of every gene among like cells, (G,)

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
    blocks: Iterable[tuple[NDArray[np.int64] | slice, sparse.csr_matrix]],
    codes: NDArray[np.int64],
    n_codes: int,
    n_genes: int,
) -> tuple[Array, Array, Array]:
    """Cells per code, (n_codes,), and sums of log expression and of its square, (n_codes, G).

    Blocks are row numbers and counts, (n, G), of all cells whose code is not -1.
    """
    n_cells = np.bincount(codes[codes >= 0], minlength=n_codes).astype(np.float64)
    sums, squares = np.zeros((2, n_codes, n_genes))
    for rows, counts in blocks:
        log, belongs = log_cp10k(counts), membership(codes[rows], n_codes)
        sums += np.asarray((belongs @ log).todense())
        squares += np.asarray((belongs @ log.power(2)).todense())
    return n_cells, sums, squares


def measure_responses(cells: Cells, conditions: Sequence[Condition | None]) -> MeasuredResponses:
    """Means over the cells of every condition, without parts for controls; `None` leaves a cell out.

    Every group has controls.
    """
    names = sorted({condition for condition in conditions if condition is not None})
    number = {condition: i for i, condition in enumerate(names)}
    codes = np.array([-1 if condition is None else number[condition] for condition in conditions], dtype=np.int64)
    blocks = cells.own.own_blocks(np.flatnonzero(codes >= 0))
    n_cells, sums, squares = profiles(blocks, codes, len(names), len(cells.own.alignment.names))
    means = sums / n_cells[:, None]
    within = (squares - n_cells[:, None] * means**2).sum(0).clip(min=0)
    spread = np.sqrt(within / max(1.0, n_cells.sum() - len(names)))
    perturbed = np.array([bool(condition.parts) for condition in names])
    control = {names[i].group: i for i in np.flatnonzero(~perturbed)}
    return MeasuredResponses(
        conditions=[condition for condition in names if condition.parts],
        means=means[perturbed],
        n_cells=n_cells[perturbed],
        controls={group: means[i] for group, i in control.items()},
        n_controls={group: int(n_cells[i]) for group, i in control.items()},
        spread=spread.clip(min=max(LEAST_SPREAD * float(spread.max()), np.finfo(np.float64).tiny)),
    )
