"""Cells and texts: what CellNamer learns from labelled cells, and from cells made up from marker sets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from scfoundry.data.labels.hierarchy import broader_types, lineages, nearest_weights, relatives
from scfoundry.model.cellnamer._markers import match

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from scfoundry.data.labels.ontology import CellOntology
    from scfoundry.model.cellnamer._batches import Batch, Batches
    from scfoundry.model.cellnamer._module import CellNamerModule

__all__ = ["TextObjectives"]

# Logit of what must not compete.
HIDDEN = -1e4


class TextObjectives(nn.Module):
    """Losses of one batch: which text is a cell's, of which known type it is, and which markers it shows.

    ``batches``: where the labels come from, for how often each comes up, and the marker sets. ``temperature``: of the
    cosine of cell and text. ``broader``: how often a cell is described by a broader type. ``made_up``: share of cells
    that are made up from marker sets. ``occur_together``: whether a study has cells of both labels, (labels, labels):
    what it calls by the broader one is not of the narrower one. Nothing is known of it if `None`.
    """

    relatives: Tensor
    kinds: Tensor
    prior: Tensor
    profile_of_label: Tensor
    profile_relatives: Tensor
    marker_sets: Tensor

    def __init__(
        self,
        module: CellNamerModule,
        labels: Sequence[tuple[str, ...]],
        batches: Batches,
        ontology: CellOntology,
        *,
        temperature: float,
        broader: float,
        made_up: float,
        occur_together: NDArray[np.bool_] | None = None,
    ) -> None:
        super().__init__()
        self.module, self.temperature, self.how_often_broader = module, temperature, broader
        types, profiles = module.config.types, module.config.profiles
        seen = {i for ids in labels for i in ids}
        described = [*labels, *((p,) for p in profiles)]
        self.n_labels = len(labels)
        wider = [broader_types(ids, ontology) if row < len(labels) else [] for row, ids in enumerate(described)]
        candidates = sorted({t for ids in [*described, *wider] for t in ids})
        position = {t: i for i, t in enumerate(candidates)}
        self.own = [[position[t] for t in ids] for ids in described]
        self.broader = [[position[t] for t in ids] for ids in wider]
        self.prompts = [
            ontology.prompts(ontology[t], n_synonyms=4) if t in ontology else (t, f"cell type: {t}.")
            for t in candidates
        ]
        related = relatives(described, candidates, seen, ontology)
        lineage = lineages([*types, *candidates, *(i for ids in described for i in ids)], ontology)

        def among(kinds: Sequence[str], of: Collection[str]) -> NDArray[np.bool_]:
            return np.array([not lineage[kind].isdisjoint(of) for kind in kinds])

        kinds = np.stack([among(types, ids) for ids in described])
        for row, column in [] if occur_together is None else np.argwhere(occur_together):
            own = labels[row]
            if narrower := [i for i in labels[column] if i not in own and not lineage[i].isdisjoint(own)]:
                kinds[row] &= ~among(types, narrower)
                related[row] &= ~among(candidates, narrower)
        self.register_buffer("relatives", torch.from_numpy(related))
        self.register_buffer("kinds", torch.from_numpy(kinds))
        of_profiles = np.full(len(profiles), made_up / max(len(profiles), 1))
        chances = np.concatenate([batches.label_chances * (1 - made_up), of_profiles])
        per_kind = kinds / np.maximum(kinds.sum(1, keepdims=True), 1)
        self.register_buffer("prior", torch.from_numpy(np.log(chances @ per_kind + 1e-5)).float())
        module.heads.profile_of_type.copy_(torch.from_numpy(nearest_weights(types, profiles, ontology)))
        self._relate_profiles(labels, seen, ontology)
        sets = torch.from_numpy(batches.markers.astype(np.float32))
        self.register_buffer("marker_sets", sets / sets.sum(1, keepdim=True).clamp(min=1))
        self.marker_gain = nn.Parameter(torch.zeros(sets.shape[1]))
        self.marker_strength = nn.Parameter(torch.tensor(5.0).log())

    def _relate_profiles(self, labels: Sequence[tuple[str, ...]], seen: set[str], ontology: CellOntology) -> None:
        """Which marker profiles are a label's, and which are neither its own nor a stranger's."""
        profiles = self.module.config.profiles
        fits = torch.from_numpy(nearest_weights([t for ids in labels for t in ids], profiles, ontology)) > 0
        rows = np.repeat(np.arange(len(labels)), [len(ids) for ids in labels])
        own = torch.zeros(len(labels), len(profiles), dtype=torch.bool)
        for row, fit in zip(rows, fits, strict=True):
            own[row] |= fit
        self.register_buffer("profile_of_label", own)
        among = torch.from_numpy(relatives(labels, profiles, seen, ontology))
        self.register_buffer("profile_relatives", among & ~own)

    @property
    def marker_weights(self) -> list[nn.Parameter]:
        """Log weights of markers, which need a higher learning rate."""
        return [self.marker_gain, self.marker_strength, self.module.heads.strength]

    def profiles(self) -> Tensor:
        """Marker sets with the gain of every gene, (K, G)."""
        return self.marker_sets * self.marker_gain.clamp(-3, 3).exp()

    def conclude(self) -> None:
        """Hand the marker profiles over to the module."""
        if len(self.marker_sets):
            self.module.profiles.learn(self.profiles())

    def losses(self, batch: Batch, rng: np.random.Generator) -> dict[str, Tensor]:
        """Every objective of one batch."""
        module = self.module
        described = np.concatenate([batch.label, self.n_labels + batch.marker_type])
        matches = match(batch.z, batch.measured, self.profiles())
        states = module.cells(batch.z)
        logits = module.heads(states, batch.z, matches)
        losses = {"cell_text": self.text_loss(module.cells.embed(states), described, rng)}
        losses["known_types"] = 0.5 * len(logits) * _of_kind(logits + self.prior, self.kinds[described]).mean()
        if len(self.marker_sets):
            losses["matching"] = self.matching_loss(matches, torch.from_numpy(batch.label).to(matches.device))
        return losses

    def matching_loss(self, matches: Tensor, label: Tensor) -> Tensor:
        """Which of the marker profiles a real cell shows; matches of all cells with them, (n, K)."""
        by_marker = self.marker_strength.exp() * matches[: len(label)]
        by_marker = by_marker.masked_fill(self.profile_relatives[label], HIDDEN)
        known = self.profile_of_label[label]
        has_profile = known.any(1)
        return 0.5 * _of_kind(by_marker, known)[has_profile].sum() / max(int(has_profile.sum()), 1)

    def text_loss(self, embedded: Tensor, described: NDArray[np.int64], rng: np.random.Generator) -> Tensor:
        """Contrast of cells (S, n, D) with one prompt of every candidate type."""
        texts = self.module.text([of_type[_skewed(rng, len(of_type))] for of_type in self.prompts])
        targets = [
            int(
                rng.choice(
                    self.broader[row] if self.broader[row] and rng.random() < self.how_often_broader else self.own[row]
                )
            )
            for row in described
        ]
        target = torch.tensor(targets, device=embedded.device)
        hidden = self.relatives[described]
        hidden[torch.arange(len(target), device=target.device), target] = False
        cosine = (embedded @ texts.T / self.temperature).masked_fill(hidden, HIDDEN)
        return torch.stack([F.cross_entropy(of_member, target) for of_member in cosine]).sum()


def _of_kind(logits: Tensor, kinds: Tensor) -> Tensor:
    """Negative log probability that a cell is any of the kinds of its label, (..., n)."""
    log_probability = F.log_softmax(logits, -1)
    return -torch.logsumexp(log_probability.masked_fill(~kinds, HIDDEN), -1)


def _skewed(rng: np.random.Generator, n: int) -> int:
    """Pick a prompt; the first two, name and definition, more often than the others."""
    return int(rng.integers(min(n, 2)) if rng.random() < 0.5 else rng.integers(n))
