"""Cells read as published: ranked genes through a transformer, beside texts through another."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from scfoundry._device import Precision, autocast
from scfoundry.model.langcell._inference import CellStream, LabelTexts, embed_cells, match_cells
from scfoundry.model.langcell._matching import ZeroShot, mix
from scfoundry.model.langcell._tokenizer import Tokenizer

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from scfoundry.data.genes import GeneVocabulary
    from scfoundry.data.labels import Label
    from scfoundry.data.matrix.reader import CountsReader
    from scfoundry.model.langcell._config import Mixture
    from scfoundry.model.langcell._module import LangCellModule

__all__ = ["ByRanks"]


class ByRanks:
    """Embeds cells and texts and judges their match, by the published module.

    Parameters
    ----------
    module
        Holds the computation.
    genes
        Vocabulary with medians.
    """

    unknown_threshold: float | None = None

    def __init__(self, module: LangCellModule, genes: GeneVocabulary) -> None:
        self.module, self.genes, self.config = module, genes, module.config

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Cuts texts into the word pieces of these weights."""
        return Tokenizer(self.config.text_vocabulary, max_length=self.config.max_text_length)

    @property
    def averages_prompts(self) -> bool:
        """Whether cell types are read by several texts; the released computation reads one."""
        return self.config.mixture != "released"

    def unsupported(self, labels: Sequence[Label]) -> list[str]:
        """No label is known to be beyond these weights."""
        return []

    def refuse(
        self,
        labels: Sequence[Label],
        *,
        weights: str,
        alpha: float | None,
        top_k: int | None,
        mixture: Mixture | None,
    ) -> None:
        """Refuse markers, which are no words."""
        if marked := [label.name for label in labels if label.markers]:
            msg = (
                f"The weights {weights!r} read ranked genes and texts and cannot use markers, given for "
                f'{", ".join(map(repr, marked))}. Leave markers out, or use model="langcell-mini".'
            )
            raise ValueError(msg)

    def embed(
        self, reader: CountsReader, *, batch_size: int | None, device: torch.device, precision: Precision
    ) -> np.ndarray:
        """Cell embeddings, (n_obs, Z)."""
        with autocast(device, precision):
            return embed_cells(self.module, self.stream(reader, batch_size, device))

    def embed_texts(self, texts: Sequence[str], *, device: torch.device, precision: Precision) -> np.ndarray:
        """Text embeddings, (P, Z)."""
        self.module.to(device).eval()
        with autocast(device, precision):
            return LabelTexts(self.module, self.tokenizer, [[text] for text in texts]).embedding.cpu().numpy()

    def zero_shot(
        self,
        reader: CountsReader,
        labels: Sequence[Label],
        *,
        alpha: float | None,
        top_k: int | None,
        mixture: Mixture | None,
        batch_size: int | None,
        device: torch.device,
        precision: Precision,
    ) -> ZeroShot:
        """Mixture of similarity and matching."""
        considered = len(labels) if top_k is None else min(top_k, len(labels))
        cells = self.stream(reader, batch_size, device)
        with autocast(device, precision):
            texts = LabelTexts(self.module, self.tokenizer, [label.texts for label in labels])
            similarity, odds = match_cells(self.module, cells, texts, top_k=considered)
        matching = None if odds is None else torch.from_numpy(odds)
        alpha = self.config.alpha if alpha is None else alpha
        mixture = self.config.mixture if mixture is None else mixture
        probabilities = mix(
            torch.from_numpy(similarity), matching, temperature=self.config.temperature, alpha=alpha, mixture=mixture
        )
        params: dict[str, Any] = {"adapt": False, "top_k": considered}
        if matching is None:
            return ZeroShot(probabilities.numpy(), similarity, None, params=params)
        judged = matching.sigmoid().where(~matching.isinf(), torch.nan).numpy()
        params |= {"alpha": alpha, "mixture": mixture}
        return ZeroShot(probabilities.numpy(), similarity, judged, params=params)

    def stream(self, reader: CountsReader, batch_size: int | None, device: torch.device) -> CellStream:
        self.module.to(device).eval()
        return CellStream(reader, self.genes, max_length=self.config.max_length, device=device, batch_size=batch_size)
