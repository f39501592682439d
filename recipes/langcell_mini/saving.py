"""A trained scorer as a model folder."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file

if TYPE_CHECKING:
    from scfoundry.data.genes import GeneVocabulary
    from scfoundry.model.langcell._scorer import CellTypeScorer

__all__ = ["save"]

CARD = Path(__file__).with_name("card.md")


def save(scorer: CellTypeScorer, genes: GeneVocabulary, folder: Path, *, trained_on: str) -> None:
    """Write ``config.json``, ``model.safetensors`` in half precision, ``genes.tsv`` and ``README.md``."""
    folder.mkdir(parents=True, exist_ok=True)
    description = {
        "model": "langcell",
        "weights": folder.name,
        "licence": "BSD-3-Clause",
        "trained_on": trained_on,
        "parameters": sum(tensor.numel() for tensor in scorer.state_dict().values()),
        "config": {"cell_encoder": "expression_mlp", **asdict(scorer.config)},
    }
    (folder / "config.json").write_text(json.dumps(description, indent=2) + "\n")
    half = {key: tensor.to(torch.float16).contiguous() for key, tensor in scorer.state_dict().items()}
    save_file({f"scorer.{key}": tensor for key, tensor in half.items()}, folder / "model.safetensors")
    genes.write(folder / "genes.tsv")
    (folder / "README.md").write_text(CARD.read_text())
