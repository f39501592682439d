"""Training batches: cells as other studies might have seen them, and cells made up from marker sets."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import sparse

from scfoundry.model.cellnamer._expression import GeneMoments, GeneScale, standardise
from scfoundry.nn.counts import SparseCounts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from torch import Tensor

    from scfoundry.model.cellnamer._corpus import Study

__all__ = ["Batch", "Batches", "fit_scale"]

MAX_PER_TYPE = 150
MIN_PANEL = 100
PANEL_SIZES = (400, 5000)
LARGE_STUDY = 3000


@dataclass(frozen=True)
class Batch:
    """Cells as the networks see them, the made-up ones last."""

    # Z-scores, and which genes are measured, (n, G)
    z: Tensor
    measured: Tensor
    cell: NDArray[np.int64]  # Which cells the real ones are, (r,): a cell may be drawn twice
    label: NDArray[np.int64]  # Label of the real cells, (r,)
    marker_type: NDArray[np.int64]  # Marker type of the made-up cells, (n - r,)

    def to(self, device: torch.device) -> Batch:
        """The same on a device."""
        return replace(self, z=self.z.to(device), measured=self.measured.to(device))


def fit_scale(studies: list[Study], n_genes: int, rng: np.random.Generator) -> GeneScale:
    """Abundance of genes, and their moments with every cell type weighing the same."""
    scale = GeneScale(n_genes)
    large = [study for study in studies if study.measured.sum() >= min(LARGE_STUDY, n_genes // 2)] or studies
    per_10k = np.zeros(n_genes)
    for study in large:
        totals = np.asarray(study.counts.sum(1)).ravel().clip(1e-9)
        per_10k += np.asarray((sparse.diags(1e4 / totals) @ study.counts).mean(0)).ravel()
    abundance = per_10k / np.maximum(np.sum([study.measured for study in large], axis=0), 1)
    scale.abundance.copy_(torch.from_numpy(abundance * 1e4 / abundance.sum()))

    of_type: dict[tuple[str, ...], list[NDArray[np.float64]]] = {}
    for study in studies:
        measured = torch.from_numpy(study.measured)
        for label, ids in study.types.items():
            cells = rng.permutation(np.flatnonzero(study.labels == label))[:MAX_PER_TYPE]
            if len(cells):
                moments = GeneMoments(n_genes)
                moments.update(scale.log_expression(SparseCounts.from_csr(study.counts[cells]), measured))
                second = moments.sd.square() + moments.mean.square()
                of_type.setdefault(ids, []).append(np.stack([moments.mean, second, study.measured.astype(float)]))
    sums = np.zeros((3, n_genes))
    for by_study in of_type.values():
        mean, second, times = np.sum([(m * k, s * k, k) for m, s, k in by_study], axis=0)
        sums += np.stack([mean, second, times]) / np.maximum(times, 1)
    mean, second = sums[:2] / np.maximum(sums[2], 1)
    scale.mean.copy_(torch.from_numpy(mean))
    scale.sd.copy_(torch.from_numpy(np.where(sums[2] > 0, np.sqrt(np.maximum(second - mean**2, 0)), 1)))
    return scale


class Batches:
    """Draws batches; rare types and small studies come up more often than their cells would.

    A cell is thinned, or seen through the panel of another study or a random one, or standardised by its own study's
    moments, in part or alone. A made-up cell is a mixture of three with 20 to 70 % of a type's markers raised.

    ``studies``: labelled studies over the vocabulary. ``markers``: marker sets, (K, G) bool. ``scale``: abundance and
    moments of the training data.
    """

    def __init__(
        self,
        studies: list[Study],
        labels: Mapping[tuple[str, ...], int],
        markers: NDArray[np.bool_],
        scale: GeneScale,
        rng: np.random.Generator,
    ) -> None:
        # Batches are made where the counts are, wherever the model goes.
        self.scale, self.markers = copy.deepcopy(scale).cpu(), markers
        self.panels = np.stack([study.measured for study in studies])
        self.whole = np.array([study.is_counts for study in studies])
        cells, of_study, of_label, group_sizes, moments = [], [], [], [], []
        for number, study in enumerate(studies):
            for label, ids in study.types.items():
                chosen = rng.permutation(np.flatnonzero(study.labels == label))
                if len(chosen):
                    cells.append(study.counts[chosen])
                    of_study += [number] * len(chosen)
                    of_label += [labels[ids]] * len(chosen)
                    group_sizes.append((labels[ids], len(chosen)))
            own = GeneMoments(len(study.measured))
            some = np.sort(rng.permutation(len(study.labels))[:1500])
            measured = torch.from_numpy(study.measured)
            own.update(self.scale.log_expression(SparseCounts.from_csr(study.counts[some]), measured))
            moments.append((own.mean, own.sd))
        self.counts = sparse.vstack(cells).tocsr()
        self.study, self.label = np.array(of_study), np.array(of_label)
        self.mean, self.sd = (torch.stack(values) for values in zip(*moments, strict=True))
        self.chances = _chances(group_sizes)
        self.label_chances = np.bincount(self.label, self.chances, minlength=len(labels))
        self._spread = self.scale.sd.numpy() * (self.scale.mean.numpy() > 0)

    def draw(self, n_cells: int, n_made_up: int, rng: np.random.Generator) -> Batch:
        """Draw ``n_cells`` in all, ``n_made_up`` of them made up from marker sets."""
        cells = rng.choice(len(self.study), n_cells, p=self.chances)
        study = self.study[cells]
        measured = self._panel(study, rng)
        expression = self._expression(cells, study, measured, rng)
        marker_type = rng.integers(max(len(self.markers), 1), size=n_made_up)
        if n_made_up:
            parts = rng.integers(n_cells, size=(3, n_made_up))
            share = rng.dirichlet(np.ones(3), n_made_up).T * rng.uniform(0.3, 1, n_made_up)
            weights = torch.from_numpy(share.astype(np.float32))[:, :, None]
            mixture = (weights * expression[torch.from_numpy(parts)]).sum(0)
            rows, genes = np.nonzero(self.markers[marker_type])
            shown = rng.random(len(rows)) < rng.uniform(0.2, 0.7, n_made_up)[rows]
            rows, genes = rows[shown], genes[shown]
            mixture[rows, genes] += torch.from_numpy(rng.uniform(0.5, 3.5, len(rows)).astype(np.float32))
            measured[-n_made_up:], study[-n_made_up:] = measured[parts[0]], study[parts[0]]
            expression[-n_made_up:] = mixture
        seen = torch.from_numpy(measured)
        share_own = torch.from_numpy(rng.choice([0.0, 0.5, 0.5, 1.0], n_cells).astype(np.float32))
        z = self._standardised(expression, torch.from_numpy(study), share_own).mul_(seen)
        real = cells[: n_cells - n_made_up]
        return Batch(z, seen, real, self.label[real], marker_type)

    def _standardised(self, expression: Tensor, study: Tensor, share_own: Tensor) -> Tensor:
        """Z-scores (n, G), in part by the moments of each cell's own study."""
        z = standardise(expression, self.scale.mean, self.scale.sd).mul_(1 - share_own[:, None])
        for number in study[share_own > 0].unique():
            rows = torch.nonzero((study == number) & (share_own > 0)).flatten()
            own = standardise(expression[rows], self.mean[number], self.sd[number])
            z.index_add_(0, rows, own.mul_(share_own[rows, None]))
        return z

    def _panel(self, study: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.bool_]:
        """Genes that each cell shows: those of its study, perhaps only part of them."""
        measured = self.panels[study]
        kind = rng.random()
        panel = np.ones(measured.shape[1], dtype=bool)
        if kind < 0.35:
            panel = self.panels[rng.integers(len(self.panels))]
        elif kind < 0.65:
            size = int(np.exp(rng.uniform(*np.log(PANEL_SIZES))))
            keys = rng.random(len(panel)) ** (1 / (self._spread + 0.02))
            panel = keys >= np.partition(keys, -min(size, len(keys)))[-min(size, len(keys))]
        smaller = measured & panel
        return np.where((smaller.sum(1) >= MIN_PANEL)[:, None], smaller, measured)

    def _expression(
        self,
        cells: NDArray[np.int64],
        study: NDArray[np.int64],
        measured: NDArray[np.bool_],
        rng: np.random.Generator,
    ) -> Tensor:
        """Log expression of cells over the genes they show, (n, G), half of the cells thinned."""
        counts = self.counts[cells]
        thin = (rng.random(len(cells)) < 0.5) & self.whole[study]
        rows = np.repeat(np.arange(len(cells)), np.diff(counts.indptr))
        share = np.where(thin, rng.uniform(0.15, 1, len(cells)), 1)[rows]
        entries = share < 1
        counts.data[entries] = rng.binomial(counts.data[entries].astype(np.int64), share[entries])
        values = counts.data * measured[rows, counts.indices]
        size = (measured @ self.scale.abundance.numpy()) / np.bincount(rows, values, len(cells)).clip(1e-9)
        dense = torch.zeros(counts.shape)
        dense[rows, counts.indices] = torch.from_numpy(np.log1p(values * size[rows]).astype(np.float32))
        return dense


def _chances(groups: list[tuple[int, int]]) -> NDArray[np.float64]:
    """Chance of every cell, from the label and the size of each group of a study."""
    label, size = np.array(groups).T
    weight = np.sqrt(np.minimum(size, 60))
    weight /= np.bincount(label, weight)[label] ** 0.7
    per_cell = np.repeat(weight / size, size)
    return per_cell / per_cell.sum()
