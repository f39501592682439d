"""What was perturbed in every cell, as the labels of a screen say it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from scfoundry._arguments import quoted, require_column
from scfoundry._compat import obs_column
from scfoundry._settings import logger
from scfoundry.data.genes.match import match
from scfoundry.data.genes.names import as_names, find, gene_names

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Mapping, Sequence

    from anndata import AnnData
    from numpy.typing import NDArray

    from scfoundry.data.genes import GeneVocabulary

__all__ = [
    "Naming",
    "Screen",
    "components",
    "group_labels",
    "members_of",
    "perturbation_labels",
    "positions_of",
    "require_known",
]

# Name of the group of all cells where no groups are known.
ONE_GROUP = "all"

# Routes to a gene by its own id or symbol.
DIRECT = {"ensembl", "symbol", "mouse_ensembl", "mouse_symbol"}


class Naming(NamedTuple):
    """How a screen is written down."""

    perturbation_key: str  # column of obs with the perturbation of every cell
    control: str  # what unperturbed cells are called in it
    group_key: str | None = None  # column of obs with cell types, lines or donors; all cells are one group if None
    sep: str | None = "+"  # what joins the parts of a combination; names are taken whole if None


class Screen(NamedTuple):
    """What was perturbed in every cell, and in which group of cells; missing where a cell has none."""

    labels: pd.Series
    groups: pd.Series
    is_control: NDArray[np.bool_]  # unperturbed cells that have a group

    @classmethod
    def read(cls, adata: AnnData, naming: Naming, *, perturbed: bool = True) -> Screen:
        """Read ``obs``; with ``perturbed``, something but controls is asked for."""
        key, control, group_key, sep = naming
        labels = perturbation_labels(adata, key, control=control, sep=sep, perturbed=perturbed)
        groups = group_labels(adata, group_key)
        return cls(labels, groups, ((labels == control) & groups.notna()).to_numpy())

    def to_learn_from(
        self,
        parts: Mapping[str, tuple[str, ...]],
        hidden: Container[tuple[str, ...]],
        groups: Sequence[str],
        caller: str,
    ) -> NDArray[np.bool_]:
        """Cells to learn from: all controls, and perturbed cells of groups that have some.

        ``parts`` is what every label stands for. Cells of ``groups`` whose perturbation is in ``hidden`` are left out.
        """
        known = (self.labels.notna() & self.groups.notna()).to_numpy()
        compared = self.groups.isin(self.groups[self.is_control].unique()).to_numpy()
        if n_alone := int((known & ~compared).sum()):
            logger.warning(
                "%s: %d perturbed cells are left out, as their group (%s) has no controls.",
                caller,
                n_alone,
                quoted(sorted(self.groups[known & ~compared].unique())),
            )
        to_predict = [name for name, members in parts.items() if members in hidden]
        predicted = self.labels.isin(to_predict).to_numpy() & self.groups.isin(groups).to_numpy() & ~self.is_control
        learned = known & compared & ~predicted
        if not (learned & ~self.is_control).any():
            msg = (
                "Nothing is left to learn from: all perturbed cells are to be predicted. Ask for fewer perturbations, "
                'or for some groups only, so that others teach: group_key="cell_type", groups=["B"].'
            )
            raise ValueError(msg)
        return learned


def components(name: str, *, control: str, sep: str | None = "+") -> tuple[str, ...]:
    """Genes (or conditions) that a name stands for, sorted: the order of a pair says nothing.

    The control's name in it is passed over; nothing is left of ``"ctrl"`` and ``"ctrl+ctrl"``.

    >>> components("KLF1+SET+ctrl", control="ctrl")
    ('KLF1', 'SET')
    """
    parts = {name} if sep is None else {part.strip() for part in name.split(sep)} - {""} or {name}
    return tuple(sorted(parts - {control}))


def members_of(
    names: Iterable[str], *, control: str, sep: str | None = "+", known: Iterable[str] = ()
) -> dict[str, tuple[str, ...]]:
    """`components` of every name, with one spelling for a gene that has several; spellings in ``known`` come first.

    >>> members_of(["CNN1", "ENSG00000130176+MAPK1"], control="ctrl")
    {'CNN1': ('CNN1',), 'ENSG00000130176+MAPK1': ('CNN1', 'MAPK1')}
    """
    parts = {name: components(name, control=control, sep=sep) for name in names}
    first = sorted(set(known))
    every = [*first, *sorted({part for members in parts.values() for part in members} - set(first))]
    chosen: dict[str | int, str] = {}
    spelling = {part: chosen.setdefault(gene, part) for part, gene in zip(every, _genes_of(every), strict=True)}
    return {name: tuple(sorted({spelling[part] for part in members})) for name, members in parts.items()}


def _genes_of(names: list[str]) -> list[str | int]:
    """Row of the gene in the shipped table; the name itself where it is none.

    Conditions are sometimes spelled like the alias of a gene (P66, P68): an alias or older name means that gene only if
    another of the names is its symbol or id.
    """
    table, listed = gene_names(), as_names(names)
    rows, routes = find(table.human, listed)
    mouse = np.flatnonzero(rows < 0)
    rows[mouse], routes[mouse] = find(table.mouse, listed[mouse])
    direct = {int(row) for row, route in zip(rows, routes, strict=True) if route in DIRECT}
    return [
        name if row < 0 else int(row) if row in direct else name.upper() for name, row in zip(names, rows, strict=True)
    ]


def require_separator(sep: object) -> None:
    """Refuse what cannot separate the genes of a combination."""
    if sep is not None and (not isinstance(sep, str) or not sep):
        msg = f'sep must be the text between the genes of a combination; got {sep!r}: sep="+", or sep=None for none.'
        raise ValueError(msg)


def _text_of(adata: AnnData, key: str, fix: str) -> pd.Series:
    """Column of ``obs`` as text, missing where it has no value."""
    require_column(adata.obs, key, fix=fix)
    column = obs_column(adata, key)
    return column.astype(object).where(column.notna(), None).map(str, na_action="ignore")


def perturbation_labels(
    adata: AnnData, key: str, *, control: str, sep: str | None, perturbed: bool = True
) -> pd.Series:
    """Perturbation of every cell as text, missing where it has none; control and control is the control.

    With ``perturbed``, a column of nothing but the control is refused.
    """
    require_separator(sep)
    labels = _text_of(adata, key, "perturbation_key")
    alone = {name: control for name in labels.dropna().unique() if not components(name, control=control, sep=sep)}
    labels = labels.replace(alone)
    names = np.unique(labels.dropna().to_numpy().astype(str)).tolist()
    listed = quoted(names, 5)
    if control not in names:
        msg = (
            f"No cell is {control!r} in adata.obs[{key!r}], which holds {listed}. Pass the name of "
            "unperturbed cells: control=..."
        )
        raise ValueError(msg)
    if perturbed and len(names) == 1:
        msg = (
            f"All cells are {control!r} in adata.obs[{key!r}]; a change is learned from perturbed cells beside them. "
            "Keep both in adata, or pass another perturbation_key."
        )
        raise ValueError(msg)
    return labels


def group_labels(adata: AnnData, key: str | None) -> pd.Series:
    """Group of every cell as text, missing where it has none; one group of all cells without a key."""
    if key is None:
        return pd.Series(ONE_GROUP, index=adata.obs_names)
    return _text_of(adata, key, "group_key, or None")


def positions_of(vocabulary: GeneVocabulary, names: Iterable[str]) -> dict[str, int]:
    """Vocabulary position of every name that means a gene: its id, symbol, older name or mouse ortholog."""
    listed = sorted(set(names))
    if not listed:
        return {}
    target = match(vocabulary.index, as_names(listed), var=None).target
    return {name: int(position) for name, position in zip(listed, target, strict=True) if position >= 0}


def require_known(parts: Iterable[str], *, seen: Iterable[str] | None, positions: Mapping[str, int]) -> None:
    """Refuse parts of perturbations of which nothing can be known: neither seen perturbed nor a human gene.

    ``positions`` holds the parts that are genes of the model; where the network alone predicts (``seen`` is `None`) it
    knows no others.
    """
    unknown = sorted(set(parts) - set(seen or ()) - positions.keys())
    if seen is not None and unknown:
        rows, _ = find(gene_names().human, as_names(unknown))
        unknown = [name for name, row in zip(unknown, rows, strict=True) if row < 0]
    if not unknown:
        return
    listed = quoted(unknown)
    if seen is None:
        msg = (
            f"{listed}: no gene of the model, and fine_tune=True replaces the value of genes. The default predicts "
            "all that was seen perturbed elsewhere: fine_tune=False."
        )
    else:
        msg = (
            f"{listed}: neither seen perturbed in the cells to learn from nor a human gene, so nothing says what "
            "it would change. A gene: check its name in sf.datasets.human_genes(). A drug or stimulus is learned from "
            'groups of cells that got it, for others: group_key="cell_type", groups=["B"].'
        )
    raise ValueError(msg)
