"""A model as one that offers what a verb needs, or an error that names one which does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scfoundry.model._contracts import (
    Denoises,
    Imputes,
    LearnsLabels,
    LearnsPathways,
    PredictsPerturbations,
)

if TYPE_CHECKING:
    from scfoundry.model._base import FoundationModel

__all__ = [
    "denoises",
    "imputes",
    "learns_labels",
    "learns_pathways",
    "predicts_perturbations",
]


def denoises(model: FoundationModel, *, caller: str) -> Denoises:
    """Return the model as one that denoises.

    Raises
    ------
    ValueError
        If it does not, or has no decoder of counts.
    """
    if not isinstance(model, Denoises):
        raise ValueError(_refusal(model, "has no decoder of counts", caller, use="CellPLM"))
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


def predicts_perturbations(model: FoundationModel, *, caller: str) -> PredictsPerturbations:
    """Return the model as one that predicts perturbations.

    Raises
    ------
    ValueError
        If it does not.
    """
    if not isinstance(model, PredictsPerturbations):
        raise ValueError(_refusal(model, "predicts no perturbations", caller, use="CellPLM"))
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
