"""What all recipes are called with, and how they end: losses shown, the model in a folder with its card."""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

if __package__:
    from recipes.cards import filled
else:
    from cards import filled

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from scfoundry.model import FoundationModel

__all__ = ["arguments", "print_losses", "save"]

HERE = Path(__file__).parent


def arguments(description: str | None, *, hold_out: Sequence[str] = ()) -> argparse.ArgumentParser:
    """Data, place of the weights, studies to hold out, seed, structure."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DATA_FOLDER")
    parser.add_argument("out", type=Path, metavar="OUT_FOLDER")
    parser.add_argument("--hold-out", nargs="*", default=hold_out, help="file names without .h5ad")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--config", type=json.loads, default={}, help="structure to change, as JSON")
    return parser


def print_losses(model: FoundationModel) -> None:
    """What was lost in every epoch."""
    print(pd.DataFrame({name: frame.iloc[:, 0] for name, frame in model.history.items()}).round(3).to_string())


def save(
    model: FoundationModel,
    out: Path,
    reading: Mapping[str, Any] | None = None,
    *,
    manifest: Sequence[Mapping[str, Any]],
    trained_on: str,
) -> None:
    """Write the folder in half precision, with its card; ``reading``: configuration to be read with, if another."""
    name = f"{model.name}-mini"
    if reading:
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            model = type(model).from_pretrained(folder, **reading)
    model.save_pretrained(
        out,
        dtype=torch.float16,
        weights=name,
        licence="BSD-3-Clause",
        trained_on=trained_on,
        card=filled(HERE / "model_cards" / f"{name}.md", manifest),
    )
    size = sum(path.stat().st_size for path in out.iterdir())
    print(f"saved to {out}, {size / 1e6:.1f} MB")
