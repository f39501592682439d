"""A trained scorer as a model folder."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch

import scfoundry as sf

if TYPE_CHECKING:
    from scfoundry.data.genes import GeneVocabulary
    from scfoundry.model.langcell._scorer import CellTypeScorer

__all__ = ["save"]

CARD = Path(__file__).with_name("card.md")


def save(scorer: CellTypeScorer, genes: GeneVocabulary, folder: Path, *, trained_on: str) -> None:
    """Write ``config.json``, ``model.safetensors`` in half precision, ``genes.tsv`` and ``README.md``."""
    model = sf.model.LangCell(genes=genes, **asdict(scorer.config))
    model.module.load_state_dict(scorer.state_dict())
    model.is_trained_ = True
    model.save_pretrained(
        folder,
        dtype=torch.float16,
        weights=folder.name,
        licence="BSD-3-Clause",
        trained_on=trained_on,
        card=CARD.read_text(),
    )
