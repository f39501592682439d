"""Which cells are of tumours, as a column of ``obs`` says it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scfoundry._arguments import quoted
from scfoundry._compat import obs_column
from scfoundry.model.celllm._objectives import UNKNOWN

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

__all__ = ["require_both_kinds", "tumour_codes"]

# What setup_anndata takes for each kind of tissue.
KINDS = {"normal": 0, "healthy": 0, "tumour": 1, "tumor": 1, "cancer": 1}


def require_both_kinds(tumour: NDArray[np.int64], key: str | None) -> None:
    """Refuse to tell tumour from normal cells where there are only cells of one kind, or of none."""
    if lacking := [kind for code, kind in enumerate(("normal", "tumour")) if code not in tumour]:
        msg = (
            f"Telling tumour from normal cells needs both, and obs[{key!r}] has no {lacking[0]} cell. Add some, or "
            'leave it out: train(loss_weights={"tumour": 0}).'
        )
        raise ValueError(msg)


def tumour_codes(adata: AnnData, key: str) -> NDArray[np.int64]:
    """Whether cells come from a tumour, 1 or 0, and -1 where that is missing, (n_obs,).

    KeyError: if there is no such column. ValueError: if it says anything else.
    """
    if key not in adata.obs:
        msg = f"obs has no column {key!r}; it has {quoted(adata.obs.columns)}."
        raise KeyError(msg)
    column = obs_column(adata, key).astype(object)
    codes = column.map(
        lambda value: int(value) if isinstance(value, bool | np.bool_) else KINDS.get(str(value).lower())
    )
    strange = column[codes.isna() & column.notna()]
    if len(strange):
        msg = (
            f"obs[{key!r}] is to hold booleans, or 'tumour' and 'normal'; {len(strange):,} cells have something else, "
            f'for example {strange.iloc[0]!r}. If that is the name of a tumour: adata.obs["is_tumour"] = '
            f"adata.obs[{key!r}].isin([{strange.iloc[0]!r}])."
        )
        raise ValueError(msg)
    return codes.where(column.notna(), UNKNOWN).to_numpy(dtype=np.int64, copy=True)
