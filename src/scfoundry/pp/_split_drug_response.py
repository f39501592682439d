"""Pairs of line and drug to hide from a method that predicts drug response."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from scfoundry._arguments import checks_arguments
from scfoundry.tasks.drug_response.units import WHAT, Split, of_units, units

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

__all__ = ["split_drug_response"]


class DrugResponseSplit(NamedTuple):
    """Which pairs are for what, each lines x drugs of bool; pairs that were not measured are in none."""

    train: pd.DataFrame
    valid: pd.DataFrame
    test: pd.DataFrame


@checks_arguments
def split_drug_response(
    response: pd.DataFrame,
    split: Split = "cold_cell",
    *,
    tissues: pd.Series | Mapping[str, str] | None = None,
    test: float = 0.1,
    valid: float = 0.1,
    rng: int | np.random.Generator | None = 0,
) -> DrugResponseSplit:
    """Divide measured responses into train, validation and test, by what is to be new in a test.

    Parameters
    ----------
    response
        Lines x drugs, NaN where not measured; only which are measured is read.
    split
        What the parts do not share: ``"warm"``, single pairs; ``"cold_cell"``, lines; ``"cold_tissue"``, all lines of a
        tissue; ``"cold_drug"``, drugs.
    tissues
        Tissue of every line, by its name; for ``split="cold_tissue"`` only.
    test, valid
        Share of pairs, lines, tissues or drugs for test, and for validation, both of all; at least one each, or none
        for ``valid=0``.
    rng
        Seed or generator. The order of lines and drugs plays no part.

    Returns
    -------
    ``train``, ``valid`` and ``test``, masks like ``response``: ``response.where(split.train)`` is what a method may
    learn from.

    Raises
    ------
    ValueError
        If the split is unknown, shares are out of range or leave nothing to learn from or test, names repeat, nothing
        was measured, or tissues are missing or given for nothing.

    Examples
    --------
    >>> import numpy as np, pandas as pd, scfoundry as sf
    >>> response = pd.DataFrame(np.ones((10, 3)), index=[f"line{i}" for i in range(10)], columns=["A", "B", "C"])
    >>> train, valid, test = sf.pp.split_drug_response(response, "cold_cell", test=0.2)
    >>> int(train.sum().sum()), int(valid.sum().sum()), int(test.sum().sum())
    (21, 3, 6)
    """
    measured = _measured(response)
    if not (0 < test < 1 and 0 <= valid < 1):
        msg = f"test={test} and valid={valid} must be shares, test above 0. As published: test=0.1, valid=0.1."
        raise ValueError(msg)
    of_pair = _units(measured, split, tissues)
    names = np.unique(of_pair[measured.to_numpy()])
    n_test = max(1, round(test * len(names)))
    n_valid = max(1, round(valid * len(names))) if valid else 0
    if n_test + n_valid >= len(names):
        msg = (
            f"test={test} and valid={valid} of {len(names)} {WHAT[split]} leave nothing to learn from. Lower them, or "
            "leave validation out: valid=0."
        )
        raise ValueError(msg)
    drawn = np.random.default_rng(rng).permutation(names)
    parts = drawn[n_test + n_valid :], drawn[n_test : n_test + n_valid], drawn[:n_test]
    return DrugResponseSplit(*(measured & of_units(of_pair, part) for part in parts))


def _measured(response: pd.DataFrame) -> pd.DataFrame:
    """Which responses are measured."""
    if not isinstance(response, pd.DataFrame):
        msg = (
            f"response must be a table, lines x drugs; got {type(response).__name__}: pd.DataFrame(values, lines, "
            "drugs)."
        )
        raise ValueError(msg)
    for axis, what in ((response.index, "line"), (response.columns, "drug")):
        if not axis.is_unique:
            twice = axis[axis.duplicated()][0]
            msg = (
                f"The {what} {twice!r} occurs twice in response. Average, or keep one: "
                "response.groupby(level=0).mean()."
            )
            raise ValueError(msg)
    measured = response.notna()
    if not measured.to_numpy().any():
        msg = "No response is measured: all values are missing. Check that lines and drugs are named as in the values."
        raise ValueError(msg)
    return measured


def _units(measured: pd.DataFrame, split: Split, tissues: object) -> NDArray[np.object_]:
    """Name of what a pair belongs to that the parts do not share, lines x drugs."""
    if (tissues is None) == (split == "cold_tissue"):
        fix = 'tissues=adata.obs["tissue"]' if tissues is None else 'split="cold_tissue", or tissues=None'
        msg = f"Tissues are what split='cold_tissue' leaves out, and nothing else does; got split={split!r}: {fix}."
        raise ValueError(msg)
    of_line = None
    if tissues is not None:
        found = pd.Series(tissues).reindex(measured.index)
        if found.isna().any():
            missing = found.index[found.isna()]
            msg = (
                f"{len(missing)} lines have no tissue, for example {missing[0]!r}. Drop them: "
                f"response.drop(index={missing[0]!r})."
            )
            raise ValueError(msg)
        of_line = found.astype(str).tolist()
    return units([str(line) for line in measured.index], [str(drug) for drug in measured.columns], split, of_line)
