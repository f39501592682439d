"""LangCell (Zhao et al., ICML 2024): cells and texts in one space, and a judge of their match."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from scfoundry.data.tokens.ranks import cls_token
from scfoundry.model._module import FoundationModule
from scfoundry.model.langcell._encoders import CellEncoder, TextEncoder, unit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from scfoundry.model.langcell._config import LangCellConfig
    from scfoundry.model.langcell._encoders import Answer

__all__ = ["LangCellModule"]


class ClassificationHead(nn.Module):
    """Classes of a cell from its ``<cls>`` state (LangCell-CE): BERT's pooler, then a linear layer."""

    def __init__(self, n_hidden: int, n_classes: int, dropout: float) -> None:
        super().__init__()
        self.pooler = nn.Linear(n_hidden, n_hidden)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(n_hidden, n_classes)

    def forward(self, states: Tensor) -> Tensor:
        """Logits, (B, L, D) to (B, classes)."""
        return self.output(self.dropout(self.pooler(states[:, 0]).tanh()))


class LangCellModule(FoundationModule):
    """Cell encoder, text encoder in two modes, their projections to one space, and the matching head."""

    lora_heads = ("cell_projection", "text_projection", "match_head", "classifier")

    def __init__(self, config: LangCellConfig, n_genes: int) -> None:
        super().__init__()
        self.config = config
        self.cell = CellEncoder(config, cls_token(n_genes) + 1)
        self.text = TextEncoder(config)
        self.cell_projection = nn.Linear(config.n_hidden, config.n_latent)
        self.text_projection = nn.Linear(config.n_text_hidden, config.n_latent)
        self.match_head = nn.Linear(config.n_text_hidden, 2)
        if config.n_classes:
            self.classifier = ClassificationHead(config.n_hidden, config.n_classes, config.dropout)

    def project_cells(self, states: Tensor) -> Tensor:
        """Cell embeddings of length 1: states (B, L, D) to (B, Z)."""
        return unit(self.cell_projection(states[:, 0]))

    def embed_texts(self, words: Tensor, present: Tensor | None = None) -> Tensor:
        """Text embeddings of length 1: (P, T) to (P, Z)."""
        return unit(self.text_projection(self.text(words, present)[:, 0]))

    def match_logits(
        self, begun: Tensor, present: Tensor | None, answers: Sequence[Answer], cell_present: Tensor | None = None
    ) -> Tensor:
        """Logits of no match and of a match, (P, 2), of texts begun with the cells behind ``answers``."""
        return self.match_head(self.text.with_cell(begun, present, answers, cell_present))

    def forward(self, tokens: Tensor, present: Tensor | None = None) -> Tensor:
        """Cell embeddings, (B, L) to (B, Z)."""
        return self.project_cells(self.cell(tokens, present, n_wanted=1))
