"""What CellPLM learns from: masked expression of the cells of one context (sections 3.1 and 3.5 of the paper)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from scfoundry.nn.negative_binomial import negative_binomial_loss

if TYPE_CHECKING:
    from torch import Tensor

    from scfoundry.model.cellplm._config import CellPLMConfig
    from scfoundry.model.cellplm._module import CellPLMModule
    from scfoundry.model.cellplm._samples import ContextSample
    from scfoundry.nn.counts import SparseCounts

__all__ = ["draw_mask", "imputation_loss", "keep_cells", "pretraining_loss", "reconstruction_loss"]

BETA_CONCENTRATION = 5.0
MAX_MASKED = 0.9


def keep_cells(n_cells: int, config: CellPLMConfig) -> Tensor:
    """Cells that stay in the context at one training step: a random subset, in order."""
    n_kept = min(config.max_cells, max(1, int((1 - config.drop_cells) * n_cells)))
    return torch.randperm(n_cells)[:n_kept].sort().values


def draw_mask(n_cells: int, n_genes: int, config: CellPLMConfig) -> Tensor:
    """Entries hidden from the encoder, (n, G) bool.

    A share ``mask_cells`` of the cells is chosen; each gene of a chosen cell, detected or not, is hidden with that
    cell's own probability. The probability follows Beta(5, 4/p - 3), whose mode is p = ``mask_genes``, capped at 0.9.
    """
    chosen = torch.randperm(n_cells)[: int(config.mask_cells * n_cells)]
    rate = mask_rates(len(chosen), config)
    mask = torch.zeros(n_cells, n_genes, dtype=torch.bool)
    mask[chosen] = torch.rand(len(chosen), n_genes) < rate[:, None]
    return mask


def mask_rates(n_cells: int, config: CellPLMConfig) -> Tensor:
    """Probability with which each gene of a cell is hidden, (n,)."""
    p = config.mask_genes
    if not config.mask_beta:
        return torch.full((n_cells,), p)
    rest = (BETA_CONCENTRATION - 1) / p + 2 - BETA_CONCENTRATION
    return torch.distributions.Beta(BETA_CONCENTRATION, rest).sample((n_cells,)).clamp(max=MAX_MASKED)


def reconstruction_loss(
    counts: SparseCounts,
    mean: Tensor,
    dispersion: Tensor,
    mask: Tensor,
    *,
    genes: Tensor | None = None,
    masked_term: bool = True,
) -> Tensor:
    """Negative binomial loss of the cells that have masked entries, mean over those cells.

    ``counts``: full counts of n cells. ``mean``, ``dispersion``: decoder output over ``genes``, (n, g) and (g,).
    ``mask``: hidden entries, (n, G). ``genes``: vocabulary positions of the measured genes; all if `None`.
    ``masked_term``: add the loss of the masked entries alone, as in training.
    """
    masked_cells = mask.any(1).nonzero().squeeze(1)
    counts, mean = counts.take(masked_cells), mean[masked_cells]
    loss, _ = negative_binomial_loss(counts, mean, dispersion, genes=genes)
    if masked_term:
        keep = mask[masked_cells] if genes is None else mask[masked_cells][:, genes]
        loss = loss + negative_binomial_loss(counts, mean, dispersion, genes=genes, keep=keep)[0]
    return loss.mean()


def regression_loss(expression: SparseCounts, predicted: Tensor, mask: Tensor, genes: Tensor | None = None) -> Tensor:
    """Mean squared error of the masked log expression: a Gaussian likelihood of constant variance (equation 7)."""
    target = predicted.new_zeros(expression.n_cells, expression.n_genes)
    target[expression.rows, expression.genes] = expression.values.to(target.dtype)
    if genes is not None:
        target, mask = target[:, genes], mask[:, genes]
    return (predicted - target)[mask].square().mean()


def pretraining_loss(module: CellPLMModule, sample: ContextSample, step: int) -> dict[str, Tensor]:
    """One context through masking, encoder, latent and decoder.

    Random numbers come from torch's default generators: seed them around this call.

    ``sample``: the cells of one context that stay, see `keep_cells`. Returns ``loss`` and its parts ``reconstruction``
    and ``latent``.
    """
    config = module.config
    device = sample.counts.values.device
    mask = draw_mask(sample.counts.n_cells, sample.counts.n_genes, config).to(device)
    expression = sample.counts.log_normalised(config.library_size)
    u = module.encode(expression.without(mask), sample.coordinates)
    latent = module.latent.sample(u)
    mean, dispersion = module.decoder(latent.z, batch=sample.batch, dataset=sample.dataset, genes=sample.genes)
    if config.likelihood == "nb":
        reconstruction = reconstruction_loss(
            sample.counts, mean, dispersion, mask, genes=sample.genes, masked_term=config.masked_term
        )
    else:
        reconstruction = regression_loss(expression, mean, mask, sample.genes)
    latent_loss = module.latent.loss(latent, step)
    return {"loss": reconstruction + latent_loss, "reconstruction": reconstruction, "latent": latent_loss}


def imputation_loss(
    module: CellPLMModule,
    sample: ContextSample,
    genes: Tensor,
    *,
    shown: Tensor,
    step: int,
    config: CellPLMConfig,
) -> Tensor:
    """Loss of some genes of a sample, the mean scaled to what was counted of them; masked entries only in training.

    ``sample``: cells of one context. ``genes``: vocabulary positions of genes to predict, (g,). ``shown``: those that
    the encoder is shown, the panel of the spots, for cells of the reference, too.
    """
    seen = sample.restricted(shown).to(module.device)
    expression = seen.counts.log_normalised(config.library_size)
    if module.training:
        expression = expression.without(draw_mask(expression.n_cells, expression.n_genes, config).to(module.device))
    latent = module.latent.sample(module.encode(expression, seen.coordinates))
    genes = genes.to(module.device)
    mean, dispersion = module.decoder(latent.z, genes=genes)
    loss, _ = negative_binomial_loss(sample.counts.to(module.device), mean, dispersion, genes=genes)
    return loss.mean() + module.latent.loss(latent, step)
