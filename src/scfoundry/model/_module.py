"""What the modules of all models share."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

__all__ = ["FoundationModule"]


class FoundationModule(nn.Module):
    """A torch module with its configuration and the two members that scvi-tools expects of one."""

    config: Any

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return next(self.parameters()).device

    def on_load(self, model: Any, **kwargs: Any) -> None:
        """Nothing to prepare before a saved state is loaded."""
