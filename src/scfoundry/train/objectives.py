"""What a training learns from, and how much each counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scfoundry._arguments import quoted

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["weights_of"]


def weights_of(
    usual: Mapping[str, float], given: Mapping[str, float] | None, of: str = "this model"
) -> dict[str, float]:
    """Weight of every objective: the usual one unless given; refuse others, and to learn from none."""
    if unknown := sorted((given or {}).keys() - usual.keys()):
        msg = f"loss_weights has no {quoted(unknown)}; name objectives of {of}: {quoted(usual)}."
        raise ValueError(msg)
    weights = dict(usual) | dict(given or {})
    if not any(weights.values()):
        msg = "All of loss_weights are 0: there is nothing to learn from. Leave it out to learn from all objectives."
        raise ValueError(msg)
    return weights
