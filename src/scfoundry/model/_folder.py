"""The folder that a model is saved in: ``config.json``, ``model.safetensors``, ``genes.tsv``, ``README.md``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from scfoundry.data.genes import GeneVocabulary
from scfoundry.data.unfinished import replacing
from scfoundry.nn.checkpoint import CheckpointError, plain_file, read_json, read_safetensors, sha256

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import torch
    from torch import Tensor

__all__ = ["CONFIG_FILE", "checked_sha256", "read_folder", "write_folder"]

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
GENES_FILE = "genes.tsv"
CARD_FILE = "README.md"
# Key of the configuration file: what the other files were when it was written.
CHECKSUMS = "sha256"
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
    """Read the folder of a model of this name; tensors stay in their file until they are used.

    CheckpointError: if a file is damaged, or the folder holds another model. FileNotFoundError: if the weights are
    missing.
    """
    saved = read_json(folder / CONFIG_FILE)
    if saved.get("model") != model:
        msg = (
            f"{folder} holds a {saved.get('model')!r} model, not {model!r}. "
            f"Load it with sf.model.load_pretrained({str(folder)!r})."
        )
        raise CheckpointError(msg)
    weights = folder / WEIGHTS_FILE
    if missing := [name for name in (WEIGHTS_FILE, GENES_FILE) if not (folder / name).exists()]:
        msg = (
            f"{folder / missing[0]} is missing: a model folder holds {CONFIG_FILE}, {WEIGHTS_FILE} and {GENES_FILE}. "
            "Download or save the model again."
        )
        raise FileNotFoundError(msg)
    description = {key: saved[key] for key in DESCRIPTION if key in saved}
    if not isinstance(saved.get("config"), dict) or not all(map(_is_text, description.values())):
        msg = (
            f"{folder / CONFIG_FILE} must hold the model's values as config, and {', '.join(DESCRIPTION)} as text. "
            "Download or save the model again."
        )
        raise CheckpointError(msg)
    try:
        genes = GeneVocabulary.read(plain_file(folder / GENES_FILE))
    except ValueError as error:
        msg = f"{folder / GENES_FILE} is damaged: {error} Download or save the model again."
        raise CheckpointError(msg) from error
    return Saved(saved["config"], description, genes, read_safetensors(weights), weights)


def _is_text(value: Any) -> bool:
    return all(isinstance(part, str) for part in (value if isinstance(value, list) else [value]))


def checked_sha256(folder: Path) -> str:
    """Checksum of the weights of a folder; CheckpointError if a file is not what was saved with the others."""
    found = {name: sha256(folder / name) for name in (WEIGHTS_FILE, GENES_FILE)}
    noted = read_json(folder / CONFIG_FILE).get(CHECKSUMS, {})
    changed = [name for name, checksum in found.items() if name in noted and noted[name] != checksum]
    if changed:
        msg = (
            f"{', '.join(changed)} of {folder} changed after the model was saved: damaged, or of another model. "
            "Download or save the model again."
        )
        raise CheckpointError(msg)
    return found[WEIGHTS_FILE]


def write_folder(
    folder: Path,
    saved: Mapping[str, Any],
    state: Mapping[str, Tensor],
    genes: GeneVocabulary,
    card: str,
    *,
    dtype: torch.dtype,
) -> None:
    """Write the folder; floating-point tensors are stored as ``dtype``.

    Files of an earlier model are replaced once all new ones are written, the one that has their checksums last.
    """
    from safetensors.torch import save_file

    stored = {k: t.cpu().to(dtype if t.is_floating_point() else t.dtype) for k, t in state.items()}
    with replacing(folder, last=CONFIG_FILE) as unfinished:
        save_file({k: t.contiguous() for k, t in stored.items()}, unfinished / WEIGHTS_FILE)
        genes.write(unfinished / GENES_FILE)
        (unfinished / CARD_FILE).write_text(card)
        checksums = {name: sha256(unfinished / name) for name in (WEIGHTS_FILE, GENES_FILE)}
        content = json.dumps({**saved, CHECKSUMS: checksums}, indent=2, allow_nan=False)
        (unfinished / CONFIG_FILE).write_text(content + "\n")
