"""What was perturbed in every cell, as the labels of a screen say it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scfoundry.data._gene_match import match
from scfoundry.data._gene_names import as_names, find, gene_names

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from anndata import AnnData

    from scfoundry.data.genes import GeneVocabulary

__all__ = ["ONE_GROUP", "components", "group_labels", "perturbation_labels", "positions_of", "require_known"]

ONE_GROUP = "all"
"""Name of the group of all cells where none are told apart."""


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


def group_labels(adata: AnnData, key: str | None) -> pd.Series:
    """Group of every cell as text, missing where it has none; one group of all cells without a key.

    Raises
    ------
    ValueError
        If there is no such column.
    """
    if key is None:
        return pd.Series(ONE_GROUP, index=adata.obs_names)
    if key not in adata.obs.columns:
        present = ", ".join(map(repr, adata.obs.columns)) or "none"
        msg = f"adata.obs has no column {key!r}; its columns: {present}. Pass one of them as group_key, or None."
        raise ValueError(msg)
    column = adata.obs[key]
    return column.astype(object).where(column.notna(), None).map(str, na_action="ignore")


def positions_of(vocabulary: GeneVocabulary, names: Iterable[str]) -> dict[str, int]:
    """Vocabulary position of every name that means a gene: its id, symbol, older name or mouse ortholog."""
    listed = sorted(set(names))
    if not listed:
        return {}
    target = match(vocabulary, as_names(listed), var=None).target
    return {name: int(position) for name, position in zip(listed, target, strict=True) if position >= 0}


def is_human_gene(name: str) -> bool:
    """Whether a name is that of a human gene, known to the model or not."""
    rows, _ = find(gene_names().human, as_names([name]))
    return bool(rows[0] >= 0)


def require_known(parts: Iterable[str], *, seen: Iterable[str] | None, positions: Mapping[str, int]) -> None:
    """Refuse parts of perturbations of which nothing can be known.

    Parameters
    ----------
    parts
        What is to be predicted.
    seen
        Parts that were seen perturbed; `None` where the network alone predicts, which knows its own genes only.
    positions
        Vocabulary positions of the parts that are genes of the model.

    Raises
    ------
    ValueError
        If a part was neither seen perturbed nor is a gene.
    """
    unknown = sorted(set(parts) - set(seen or ()) - positions.keys())
    if seen is not None:
        unknown = [name for name in unknown if not is_human_gene(name)]
    if unknown:
        listed = ", ".join(map(repr, unknown))
        if seen is None:
            msg = (
                f"{listed}: no gene of the model, and fine_tune=True replaces the value of genes. The default predicts "
                "all that was seen perturbed elsewhere: fine_tune=False."
            )
            raise ValueError(msg)
        msg = (
            f"{listed}: neither seen perturbed in the cells to learn from nor a human gene, so nothing says what "
            "it would change. A gene: check its name in sf.datasets.human_genes(). A drug or stimulus is learned from "
            'groups of cells that got it, for others: group_key="cell_type", groups=["B"].'
        )
        raise ValueError(msg)
