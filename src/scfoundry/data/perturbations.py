"""What was perturbed in every cell, as the labels of a screen say it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

__all__ = ["components", "perturbation_labels"]


def components(name: str, *, control: str, sep: str | None = "+") -> tuple[str, ...]:
    """Genes (or conditions) that a name stands for, sorted: the order of a pair says nothing.

    Parameters
    ----------
    name
        Name of a perturbation. The control's name in it is passed over, as in ``"KLF1+ctrl"``.
    control
        Name of the control.
    sep
        What joins the parts of a combination; names are taken whole if `None`.

    Examples
    --------
    >>> components("SET+KLF1", control="ctrl")
    ('KLF1', 'SET')
    >>> components("KLF1+ctrl", control="ctrl")
    ('KLF1',)
    """
    if sep is None:
        return (name,)
    parts = {part.strip() for part in name.split(sep)} - {"", control}
    return tuple(sorted(parts)) or (name,)


def perturbation_labels(adata: AnnData, key: str, *, control: str) -> pd.Series:
    """Perturbation of every cell as text, missing where it has none.

    Parameters
    ----------
    adata
        Cells x genes.
    key
        Column of ``obs``.
    control
        Value of cells that were not perturbed.

    Raises
    ------
    ValueError
        If there is no such column, no control among its values, or nothing but the control.
    """
    if key not in adata.obs.columns:
        present = ", ".join(map(repr, adata.obs.columns)) or "none"
        msg = f"adata.obs has no column {key!r}; its columns: {present}. Pass one of them as perturbation_key."
        raise ValueError(msg)
    column = adata.obs[key]
    labels = column.astype(object).where(column.notna(), None).map(str, na_action="ignore")
    names = np.unique(labels.dropna().to_numpy().astype(str)).tolist()
    listed = ", ".join(map(repr, names[:5])) + (", ..." if len(names) > 5 else "")
    if control not in names:
        msg = (
            f"No cell is {control!r} in adata.obs[{key!r}], which holds {listed or 'nothing'}. Pass the name of "
            "unperturbed cells: control=..."
        )
        raise ValueError(msg)
    if len(names) == 1:
        msg = (
            f"All cells are {control!r} in adata.obs[{key!r}]; a change is learned from perturbed cells beside them. "
            "Keep both in adata, or pass another perturbation_key."
        )
        raise ValueError(msg)
    return labels
