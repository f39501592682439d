"""The folder that a model is saved in: ``config.json``, ``model.safetensors``, ``genes.tsv``, ``README.md``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from scfoundry.data.genes import GeneVocabulary
from scfoundry.nn.checkpoint import CheckpointError, read_safetensors, sha256

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import torch
    from torch import Tensor

__all__ = ["CONFIG_FILE", "Saved", "read_folder", "write_folder"]

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
GENES_FILE = "genes.tsv"
CARD_FILE = "README.md"
# What a folder says of its weights, beside the configuration.
DESCRIPTION = ("weights", "licence", "citation", "trained_on", "objectives")


class Saved(NamedTuple):
    """What stands in a model's folder."""

    config: dict[str, Any]
    description: dict[str, Any]
    genes: GeneVocabulary
    tensors: dict[str, Tensor]
    weights: Path


def read_folder(folder: Path, model: str) -> Saved:
    """Read the folder of a model of this name.

    CheckpointError: if a file is damaged, or the folder holds another model. FileNotFoundError: if the weights are
    missing.
    """
    try:
        saved = json.loads((folder / CONFIG_FILE).read_text())
    except json.JSONDecodeError as error:
        msg = f"{folder / CONFIG_FILE} is damaged: {error}. Download or save the model again."
        raise CheckpointError(msg) from error
    if saved.get("model") != model:
        msg = (
            f"{folder} holds a {saved.get('model')!r} model, not {model!r}. "
            f"Load it with sf.model.load_pretrained({str(folder)!r})."
        )
        raise CheckpointError(msg)
    weights = folder / WEIGHTS_FILE
    if not weights.exists():
        msg = f"{weights} is missing: a model folder holds {CONFIG_FILE}, {WEIGHTS_FILE} and {GENES_FILE}."
        raise FileNotFoundError(msg)
    description = {key: saved[key] for key in DESCRIPTION if key in saved} | {"sha256": sha256(weights)}
    genes = GeneVocabulary.read(folder / GENES_FILE)
    return Saved(saved["config"], description, genes, read_safetensors(weights), weights)


def write_folder(
    folder: Path,
    saved: Mapping[str, Any],
    state: Mapping[str, Tensor],
    genes: GeneVocabulary,
    card: str,
    *,
    dtype: torch.dtype,
) -> None:
    """Write the folder; floating-point tensors are stored as ``dtype``."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG_FILE).write_text(json.dumps(saved, indent=2) + "\n")
    stored = {k: t.cpu().to(dtype if t.is_floating_point() else t.dtype) for k, t in state.items()}
    save_file({k: t.contiguous() for k, t in stored.items()}, folder / WEIGHTS_FILE)
    genes.write(folder / GENES_FILE)
    (folder / CARD_FILE).write_text(card)
