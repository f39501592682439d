"""What scPaLM learns from: expression by its tokens (stage 1); hidden expression, and unlike cells (stage 2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from scfoundry.model.scpalm._batch import Expression
from scfoundry.model.scpalm._module import STAGES
from scfoundry.model.scpalm._pseudo_labels import contrastive_loss
from scfoundry.nn.divide_and_conquer import gather_rows
from scfoundry.nn.quantiser import perplexity

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from scfoundry.data.matrix.reader import Reader
    from scfoundry.model.scpalm._module import ScPaLMModule, View
    from scfoundry.model.scpalm._pseudo_labels import PseudoLabels

__all__ = ["CellTokenLoss", "PathwayTokenLoss", "draw_places", "hidden_genes"]


class PathwayTokenLoss:
    """Stage 1: log expression of all genes by the tokens of the codebook, and the distance between tokens and codes.

    ``batches``: number of the batch of every cell, (n_obs,).
    """

    def __init__(self, module: ScPaLMModule, reader: Reader, batches: np.ndarray) -> None:
        self.module, self.reader, self.batches = module, reader, torch.from_numpy(batches)
        self.vectors = torch.empty(0)

    def __call__(self, rows: np.ndarray, step: int) -> dict[str, Tensor]:
        """The loss and its parts; how much of what cells differ in is explained; codes in use."""
        cells = Expression.of_counts(self.reader.read(rows), self.module.device)
        if self.module.training:
            self.module.embedding.start(cells)
        z = self.module.encode(cells)
        if self.module.training and self.module.config.quantiser:
            self.module.quantiser.start(z)
        quantised = self.module.quantise(z)
        if self.module.training and self.module.config.quantiser:
            self.module.quantiser.count_use(quantised.codes)
            self.vectors = z.detach()
        batches = self.batches[torch.from_numpy(rows)].to(self.module.device)
        x, found = cells.dense(), self.module.decoder(quantised.vectors, batches=batches).float()
        losses = {"reconstruction": F.mse_loss(found, x), "quantiser": quantised.loss}
        total = losses["reconstruction"] + self.module.config.quantiser_weight * losses["quantiser"]
        # Of what cells differ in: the mean of every gene in the batch explains nothing of it.
        spread = (x - x.mean(0)).square().mean().clamp(min=1e-12)
        losses["explained_variance"] = 1 - losses["reconstruction"].detach() / spread
        losses["perplexity"] = perplexity(quantised.codes, self.module.config.n_codes)
        return {"loss": total} | losses


class CellTokenLoss:
    """Stage 2: expression of tokens that were left out, and cells that are unlike told apart by their token.

    The parts of stage 1 are only read.
    """

    def __init__(self, module: ScPaLMModule, reader: Reader, batches: np.ndarray, labels: PseudoLabels) -> None:
        self.module, self.reader, self.batches, self.labels = module, reader, torch.from_numpy(batches), labels
        self.n_kept = max(1, round(module.config.kept_share * module.config.n_tokens))

    def __call__(self, rows: np.ndarray, step: int) -> dict[str, Tensor]:
        """The loss and its parts."""
        module = self.module
        cells = Expression.of_counts(self.reader.read(rows), module.device)
        for part in STAGES[1]:
            module.get_submodule(part).eval()
        with torch.no_grad():
            tokens = module.pathway_tokens(cells).vectors
        first = self.view(tokens)
        hidden = hidden_genes(first.places, module.config.n_tokens, module.n_genes)
        batches = self.batches[torch.from_numpy(rows)].to(module.device)
        error = (module.cell_decoder(first, batches).float() - cells.dense()).square() * hidden
        losses = {"reconstruction": error.sum() / hidden.sum().clamp(min=1)}
        if weight := module.config.contrastive_weight:
            if module.training:
                self.labels.refit(len(rows))
            alike = self.labels.assign(first.cell)
            second = self.view(tokens)
            how = {"temperature": module.config.temperature, "max_negatives": module.config.max_negatives}
            losses["contrastive"] = contrastive_loss(first.cell, second.cell, alike, **how)
            if module.training:
                self.labels.push(gather_rows(first.cell))
        total = losses["reconstruction"] + weight * losses.get("contrastive", 0)
        return {"loss": total} | losses

    def view(self, tokens: Tensor) -> View:
        """States of a random part of the tokens, and of the cell."""
        return self.module.cell_encoder.view(
            tokens, draw_places(len(tokens), tokens.shape[1], self.n_kept, tokens.device)
        )


def draw_places(n_cells: int, n_tokens: int, n_kept: int, device: torch.device) -> Tensor:
    """Places of the tokens that are kept, drawn for every cell, ascending, (B, K)."""
    return torch.rand(n_cells, n_tokens, device=device).argsort(1)[:, :n_kept].sort(1).values


def hidden_genes(kept: Tensor, n_tokens: int, n_genes: int) -> Tensor:
    """Which genes belong to tokens that were left out, (B, G): token j has those from s j on, ``kept`` is (B, K).

    The paper's algorithm 1 prints the error of all genes; its text means those of this mask.
    """
    left_out = torch.ones(len(kept), n_tokens, dtype=torch.bool, device=kept.device).scatter(1, kept, False)
    return left_out.repeat_interleave(-(-n_genes // n_tokens), dim=1)[:, :n_genes]
