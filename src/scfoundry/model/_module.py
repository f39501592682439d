"""What the modules of all models share."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import nn

from scfoundry.nn.checkpointed import CheckpointedLayer

__all__ = ["FoundationModule"]


class FoundationModule(nn.Module):
    """A torch module with its configuration and the two members that scvi-tools expects of one."""

    config: Any
    lora_heads: ClassVar[tuple[str, ...]] = ()
    """Parts that learn as a whole where attention learns by matrices of low rank and all others are frozen."""

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return next(self.parameters()).device

    def gradient_checkpointing_enable(self, enabled: bool = True) -> None:
        """Keep of every layer its input alone for the gradient, and compute the rest again when it is asked for.

        Gradients are the same; training needs a fraction of the memory and about a third more time. It holds for this
        object, and is not saved.

        Examples
        --------
        >>> import scfoundry as sf
        >>> model = sf.model.Celler(genes=["CD3E", "MS4A1", "LYZ"], n_layers=2, n_hidden=32, n_heads=4)
        >>> model.module.gradient_checkpointing_enable()
        """
        for layer in self.modules():
            if isinstance(layer, CheckpointedLayer):
                layer.gradient_checkpointing = enabled

    def on_load(self, model: Any, **kwargs: Any) -> None:
        """Nothing to prepare before a saved state is loaded."""
