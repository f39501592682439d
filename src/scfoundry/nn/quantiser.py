"""Vector quantisation by a codebook that does not collapse (van den Oord et al. 2017; Huh et al. 2023)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import distributed, nn

from scfoundry.nn.processes import share, together

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Quantised", "VectorQuantiser", "perplexity"]

# Of the norm of the vector that an unused code is moved to.
NOISE = 0.01
# More vectors than these add nothing to the start.
MAX_KMEANS_VECTORS = 16_384


class Quantised(NamedTuple):
    """Vectors (..., D) replaced by their nearest codes."""

    vectors: Tensor  # (..., D); gradients pass straight through to what was quantised
    codes: Tensor  # (...), numbers of the codes
    loss: Tensor  # scalar


class VectorQuantiser(nn.Module):
    r"""Every vector becomes the nearest of C codes, which learn to lie where the vectors are.

    The codes that are compared are an affine map, shared by all, of those that are stored, so that every code follows
    when the distribution of the vectors moves (Huh et al. 2023, eq. 6):

    .. math:: v_k = \rho b + (1 + \rho a) \odot c_k

    with learned :math:`a, b`, zero at first, and :math:`\rho` the ``affine_rate``, 0 for none. The loss, a mean over
    elements, is :math:`(1 - \beta) \lVert z - \operatorname{sg}(v) \rVert^2 + \beta \lVert \operatorname{sg}(z) - v
    \rVert^2`.

    Quantising changes nothing; a training calls `start`, `count_use` and `replace_unused`.
    """

    started: Tensor
    unused_for: Tensor

    def __init__(self, n_codes: int, width: int, *, beta: float = 0.95, affine_rate: float = 10.0) -> None:
        super().__init__()
        self.beta, self.affine_rate = beta, affine_rate
        self.stored = nn.init.normal_(nn.Parameter(torch.empty(n_codes, width)), std=width**-0.5)
        self.scale, self.shift = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.zeros(width))
        self.register_buffer("started", torch.tensor(False))
        # Training batches since a code was last used.
        self.register_buffer("unused_for", torch.zeros(n_codes, dtype=torch.int64))

    def codebook(self) -> Tensor:
        """Codes as they are compared, (C, D)."""
        return self.affine_rate * self.shift + (1 + self.affine_rate * self.scale) * self.stored

    def nearest(self, z: Tensor) -> Tensor:
        """Numbers of the nearest codes of vectors, (..., D) to (...)."""
        codes = self.codebook().float()
        with torch.autocast(z.device.type, enabled=False):
            # Without |z|^2, which is the same for all codes.
            distances = torch.addmm(codes.square().sum(1), z.flatten(0, -2).to(codes.dtype), codes.T, alpha=-2)
        return distances.argmin(1).view(z.shape[:-1])

    def forward(self, z: Tensor) -> Quantised:
        """Quantise vectors (..., D)."""
        codes = self.nearest(z)
        chosen = self.codebook()[codes]
        loss = (1 - self.beta) * (z - chosen.detach()).square().mean()
        loss = loss + self.beta * (z.detach() - chosen).square().mean()
        return Quantised(z + (chosen - z).detach(), codes, loss)

    @torch.no_grad()
    def start(self, z: Tensor) -> None:
        """Put the codes on the centres of clusters (k-means) of the vectors of a first batch, (..., D); only once."""
        if self.started:
            return
        from sklearn.cluster import KMeans

        vectors = z.flatten(0, -2).float()
        vectors = vectors[torch.randperm(len(vectors), device=z.device)[:MAX_KMEANS_VECTORS]]
        n_clusters = min(len(self.stored), len(vectors.unique(dim=0)))
        # Fewer vectors than codes: the codes that are left stay where they are, until they are replaced.
        centres = KMeans(n_clusters, n_init=1, random_state=0).fit(vectors.cpu().numpy()).cluster_centers_
        self.stored[:n_clusters] = self._as_stored(torch.from_numpy(centres).to(self.stored))
        self.started.fill_(True)
        share(self.stored)

    @torch.no_grad()
    def count_use(self, codes: Tensor) -> None:
        """Count a training batch in which these codes were used, (...), by any process."""
        used = torch.bincount(codes.flatten(), minlength=len(self.stored))
        if together():
            distributed.all_reduce(used)
        self.unused_for += 1
        self.unused_for[used > 0] = 0

    @torch.no_grad()
    def replace_unused(self, z: Tensor, after: int, optimizer: torch.optim.Optimizer | None = None) -> int:
        """Move codes that no batch of the last ``after`` ones has used to vectors of this batch, (..., D); how many.

        To be called after the step of the optimizer, whose momentum would move them on: it is forgotten.
        """
        rows = torch.nonzero(self.unused_for >= after).flatten()
        if not len(rows):
            return 0
        vectors = z.flatten(0, -2).to(self.stored)
        chosen = vectors[torch.randint(len(vectors), (len(rows),), device=z.device)]
        noise = torch.randn_like(chosen)
        noise *= NOISE * chosen.norm(dim=1, keepdim=True) / noise.norm(dim=1, keepdim=True)
        self.stored[rows] = self._as_stored(chosen + noise)
        self.unused_for[rows] = 0
        share(self.stored)
        if optimizer is not None:
            for moment in optimizer.state.get(self.stored, {}).values():
                if torch.is_tensor(moment) and moment.shape == self.stored.shape:
                    moment[rows] = 0
        return len(rows)

    def _as_stored(self, codes: Tensor) -> Tensor:
        """What has to be stored for codes to be compared as these."""
        return (codes - self.affine_rate * self.shift) / (1 + self.affine_rate * self.scale)


def perplexity(codes: Tensor, n_codes: int) -> Tensor:
    """Exponential of the entropy of the use of codes (...): how many are in use, were all used alike."""
    shares = torch.bincount(codes.flatten(), minlength=n_codes) / codes.numel()
    return torch.special.entr(shares).sum().exp()
