"""Which cells are alike, by clusters of the cell tokens of the last steps (appendix A.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from sklearn.cluster import KMeans
from torch import nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from torch import Tensor

    from scfoundry.model.scpalm._config import ScPaLMConfig

__all__ = ["PseudoLabels", "contrastive_loss"]

# Cells of the queue per cluster, from which clusters are worth something.
CELLS_PER_CLUSTER = 10


class PseudoLabels(nn.Module):
    """A queue of cell tokens, and centres of their clusters, found anew every so many steps.

    All of it rests in buffers: a training that is resumed goes on with the same.
    """

    queue: Tensor
    n_seen: Tensor
    n_steps: Tensor
    centres: Tensor
    fitted: Tensor

    def __init__(self, config: ScPaLMConfig, seed: int) -> None:
        super().__init__()
        self.refit_every, self.seed = config.refit_every, seed
        self.register_buffer("queue", torch.zeros(config.queue_size, config.n_hidden))
        self.register_buffer("n_seen", torch.zeros((), dtype=torch.int64))
        self.register_buffer("n_steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("centres", torch.zeros(config.n_clusters, config.n_hidden))
        self.register_buffer("fitted", torch.tensor(False))

    def refit(self, n_together: int) -> None:
        """Find the clusters anew if it is time, and the queue holds enough for batches of ``n_together`` cells."""
        n_filled = min(int(self.n_seen), len(self.queue))
        enough = n_filled >= min(max(len(self.centres) * CELLS_PER_CLUSTER, n_together), len(self.queue))
        if enough and (not self.fitted or int(self.n_steps) % self.refit_every == 0):
            cells = self.queue[:n_filled].cpu().numpy()
            n_clusters = min(len(self.centres), n_filled)
            found = KMeans(n_clusters, n_init=1, random_state=self.seed).fit(cells).cluster_centers_
            self.centres.zero_()[:n_clusters] = torch.from_numpy(found).to(self.centres)
            self.fitted.fill_(True)

    def assign(self, cells: Tensor) -> Tensor | None:
        """Cluster of every cell, (B, D) to (B,); `None` before there are clusters."""
        return torch.cdist(unit(cells), self.centres).argmin(1) if self.fitted else None

    def push(self, cells: Tensor) -> None:
        """Append the cell tokens of a step, (B, D); the oldest ones leave."""
        cells = unit(cells)[-len(self.queue) :]
        places = (int(self.n_seen) + torch.arange(len(cells), device=cells.device)) % len(self.queue)
        self.queue[places] = cells
        self.n_seen += len(cells)
        self.n_steps += 1


def unit(cells: Tensor) -> Tensor:
    """Rows of length 1, without gradient: what is compared is their cosine."""
    return F.normalize(cells.detach().float(), dim=1)


def contrastive_loss(
    first: Tensor, second: Tensor, labels: Tensor | None, *, temperature: float, max_negatives: int
) -> Tensor:
    r"""Two views of a cell, (B, D) each, against the first views of cells of other clusters.

    .. math:: -\frac{1}{B} \sum_i \log \frac{e^{\cos(h_i, h'_i) / \tau}}
        {e^{\cos(h_i, h'_i) / \tau} + \sum_{j \in \mathrm{neg}(i)} e^{\cos(h_i, h_j) / \tau}}

    the InfoNCE that equation 1 means, with at most ``max_negatives`` random negatives of a cell. A cell without any
    adds 0, as do all without ``labels`` (B,).
    """
    if labels is None:
        return (first * 0).sum()
    first, second = F.normalize(first.float(), dim=1), F.normalize(second.float(), dim=1)
    others = labels[:, None] != labels
    drawn = torch.rand(others.shape, device=others.device).masked_fill(~others, 2.0)
    negatives = others & (drawn.argsort(1).argsort(1) < max_negatives)
    positive = (first * second).sum(1, keepdim=True) / temperature
    against = (first @ first.T / temperature).masked_fill(~negatives, -torch.inf)
    return (torch.cat([positive, against], 1).logsumexp(1) - positive[:, 0]).mean()
