"""A model as one that offers what a verb needs, or an error that names one which does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scfoundry.model._contracts import (
    AttendsToCells,
    Imputes,
    LearnsLabels,
    LearnsPathways,
    ReadsTexts,
)

if TYPE_CHECKING:
    from scfoundry.model._base import FoundationModel

__all__ = [
    "attends_to_cells",
    "imputes",
    "learns_labels",
    "learns_pathways",
    "reads_texts",
]


def attends_to_cells(model: FoundationModel, *, caller: str) -> AttendsToCells:
    """Return the model as one whose cells attend to each other.

    Raises
    ------
    ValueError
        If they do not.
    """
    if not isinstance(model, AttendsToCells):
        raise ValueError(_refusal(model, "reads every cell by itself", caller, use="CellPLM"))
    return model


def imputes(model: FoundationModel, *, caller: str) -> Imputes:
    """Return the model as one that imputes genes.

    Raises
    ------
    ValueError
        If it does not.
    """
    if not isinstance(model, Imputes):
        raise ValueError(_refusal(model, "does not impute genes", caller, use="CellPLM"))
    return model


def reads_texts(model: FoundationModel, *, caller: str) -> ReadsTexts:
    """Return the model as one that reads texts.

    Raises
    ------
    ValueError
        If it does not.
    """
    if not isinstance(model, ReadsTexts):
        raise ValueError(_refusal(model, "reads no texts", caller, use="LangCell"))
    return model


def learns_labels(model: FoundationModel, *, caller: str) -> LearnsLabels:
    """Return the model as one that learns labels.

    Raises
    ------
    ValueError
        If it does not.
    """
    if not isinstance(model, LearnsLabels):
        raise ValueError(_refusal(model, "does not learn labels yet", caller, use="LangCell"))
    return model


def learns_pathways(model: FoundationModel, *, caller: str) -> LearnsPathways:
    """Return the model as one that learns pathways.

    Raises
    ------
    ValueError
        If it does not.
    """
    if not isinstance(model, LearnsPathways):
        raise ValueError(_refusal(model, "does not learn pathways", caller, use="LangCell"))
    return model


def _refusal(model: FoundationModel, why: str, caller: str, *, use: str) -> str:
    return f'{caller} cannot use {type(model).__name__}, which {why}. Use {use}: {caller}(..., model="{use.lower()}").'
