"""How a model that was trained on few positions of a cell is saved to read more of them."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from cards import filled

if TYPE_CHECKING:
    from scfoundry.model import FoundationModel

__all__ = ["save"]


def save(
    model: FoundationModel, out: Path, reading: dict[str, Any], *, manifest: list[dict[str, Any]], trained_on: str
) -> None:
    """Write the folder in half precision, with its card, configured for ``reading``."""
    name = f"{model.name}-mini"
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        type(model).from_pretrained(folder, **reading).save_pretrained(
            out,
            dtype=torch.float16,
            weights=name,
            licence="BSD-3-Clause",
            trained_on=trained_on,
            card=filled(Path(__file__).parent / name.replace("-", "_") / "card.md", manifest),
        )
    size = sum(path.stat().st_size for path in out.iterdir())
    print(f"saved to {out}, {size / 1e6:.1f} MB")
