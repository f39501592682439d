"""Training of the scorer: texts, known types and marker profiles at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from scfoundry.model.langcell._kinship import is_kind_of
from scfoundry.model.langcell._profiles import match
from scfoundry.model.langcell._scorer import CellTypeScorer, ScorerConfig
from scfoundry.model.langcell.scorer_training._batches import Batches, fit_scale
from scfoundry.model.langcell.scorer_training._relations import ancestors, profile_of_type, relatives

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from scfoundry.data.ontology import CellOntology
    from scfoundry.model.langcell.scorer_training._studies import LabelledSet

__all__ = ["Settings", "train"]

HIDDEN = -1e4
"""Logit of what must not compete."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How long and how fast to train.

    Attributes
    ----------
    n_steps, n_cells, made_up
        Steps, cells of each, and the share of them made up from markers.
    lr, linear_lr, marker_lr
        Highest learning rate of the networks, of the linear head, and of the log weights of markers.
    temperature
        Of the cosine.
    broader
        How often a cell is described by a broader type.
    """

    n_steps: int = 260
    n_cells: int = 112
    made_up: float = 0.3
    lr: float = 2e-3
    linear_lr: float = 7e-4
    marker_lr: float = 1.5e-2
    temperature: float = 0.07
    broader: float = 0.3


def train(
    sets: list[LabelledSet],
    markers: Mapping[str, NDArray[np.int64]],
    ontology: CellOntology,
    *,
    seed: int,
    config: Mapping[str, Any] | None = None,
    settings: Settings | None = None,
) -> CellTypeScorer:
    """Train a scorer on labelled studies over one vocabulary, and on marker sets."""
    settings = settings or Settings()
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    n_genes = sets[0].counts.shape[1]
    labels = sorted({ids for study in sets for label, ids in study.types.items() if label in study.labels})
    seen = sorted({i for ids in labels for i in ids})
    profiles = sorted(markers)
    types = sorted({ids[0] for ids in labels if len(ids) == 1} | set(profiles))
    scorer = CellTypeScorer(ScorerConfig(types=tuple(types), profiles=tuple(profiles), **dict(config or {})), n_genes)
    scorer.scale = fit_scale(sets, n_genes, rng)
    shown = [{i for label, ids in study.types.items() if label in study.labels for i in ids} for study in sets]
    n_studies = [sum(any(is_kind_of(i, t, ontology) for i in ids) for ids in shown) for t in types]
    scorer.n_studies.copy_(torch.tensor(n_studies))
    sets_of_genes = np.zeros((len(profiles), n_genes), dtype=bool)
    for row, identifier in enumerate(profiles):
        sets_of_genes[row, markers[identifier]] = True
    scorer.heads.profile_of_type.copy_(torch.from_numpy(profile_of_type(types, profiles, ontology)))
    batches = Batches(sets, {ids: i for i, ids in enumerate(labels)}, sets_of_genes, scorer.scale, rng)
    course = _Course(scorer, labels, seen, sets_of_genes, batches, ontology, settings, rng)
    course.run()
    return scorer.eval()


class _Course:
    """One run of training and what it compares cells with."""

    def __init__(
        self,
        scorer: CellTypeScorer,
        labels: Sequence[tuple[str, ...]],
        seen: Sequence[str],
        sets_of_genes: NDArray[np.bool_],
        batches: Batches,
        ontology: CellOntology,
        settings: Settings,
        rng: np.random.Generator,
    ) -> None:
        self.scorer, self.batches, self.settings, self.rng = scorer, batches, settings, rng
        types, profiles = scorer.config.types, scorer.config.profiles
        described = [*labels, *((p,) for p in profiles)]
        self.n_labels = len(labels)
        broader = [ancestors(ids, ontology) if row < len(labels) else [] for row, ids in enumerate(described)]
        self.candidates = sorted({t for ids in [*described, *broader] for t in ids})
        position = {t: i for i, t in enumerate(self.candidates)}
        self.own = [[position[t] for t in ids] for ids in described]
        self.broader = [[position[t] for t in ids] for ids in broader]
        self.relatives = torch.from_numpy(relatives(described, self.candidates, seen, ontology))
        self.prompts = [
            ontology.prompts(ontology[t], n_synonyms=4) if t in ontology else (t, f"cell type: {t}.")
            for t in self.candidates
        ]
        kinds = [[any(is_kind_of(t, i, ontology) for i in ids) for t in types] for ids in described]
        self.kinds = torch.tensor(kinds)
        chances = np.concatenate(
            [batches.label_chances * (1 - settings.made_up), np.full(len(profiles), settings.made_up / len(profiles))]
        )
        per_kind = self.kinds.numpy() / np.maximum(self.kinds.numpy().sum(1, keepdims=True), 1)
        self.prior = torch.from_numpy(np.log(chances @ per_kind + 1e-5)).float()
        fits = torch.from_numpy(profile_of_type([t for ids in labels for t in ids], profiles, ontology)) > 0
        rows = np.repeat(np.arange(len(labels)), [len(ids) for ids in labels])
        self.profile_of_label = torch.zeros(len(labels), len(profiles), dtype=torch.bool)
        for row, fit in zip(rows, fits, strict=True):
            self.profile_of_label[row] |= fit
        among = torch.from_numpy(relatives(labels, profiles, seen, ontology))
        self.profile_relatives = among & ~self.profile_of_label
        sets_float = torch.from_numpy(sets_of_genes.astype(np.float32))
        self.marker_sets = sets_float / sets_float.sum(1, keepdim=True).clamp(min=1)
        self.marker_gain = nn.Parameter(torch.zeros(sets_float.shape[1]))
        self.marker_strength = nn.Parameter(torch.tensor(5.0).log())

    def run(self) -> None:
        """Take all steps."""
        scorer, settings = self.scorer.train(), self.settings
        linear = set(scorer.heads.linear.parameters())
        slow = [self.marker_gain, self.marker_strength, scorer.heads.strength]
        networks = [p for p in scorer.parameters() if p not in linear and p is not scorer.heads.strength]
        groups: list[dict[str, Any]]
        groups = [{"params": networks}, {"params": list(linear)}, {"params": slow, "weight_decay": 0.0}]
        optimiser = torch.optim.AdamW(groups, weight_decay=1e-4)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser,
            [settings.lr, settings.linear_lr, settings.marker_lr],
            total_steps=settings.n_steps,
            pct_start=0.1,
        )
        for _ in range(settings.n_steps):
            loss = self.step()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
        scorer.profiles.learn(self.profiles())

    def profiles(self) -> Tensor:
        """Marker sets with the gain of every gene, (K, G)."""
        return self.marker_sets * self.marker_gain.clamp(-3, 3).exp()

    def step(self) -> Tensor:
        """Loss of one batch."""
        scorer, settings = self.scorer, self.settings
        n_made_up = int(settings.n_cells * settings.made_up)
        batch = self.batches.draw(settings.n_cells, n_made_up)
        described = np.concatenate([batch.label, self.n_labels + batch.marker_type])
        matches = match(batch.z, batch.measured, self.profiles())
        states = scorer.cells(batch.z)
        logits = scorer.heads(states, batch.z, matches)
        loss = self.text_loss(scorer.cells.embed(states), described)
        loss = loss + 0.5 * len(logits) * _of_kind(logits + self.prior, self.kinds[described]).mean()
        label = torch.from_numpy(batch.label)
        by_marker = self.marker_strength.exp() * matches[: len(label)]
        by_marker = by_marker.masked_fill(self.profile_relatives[label], HIDDEN)
        known = self.profile_of_label[label]
        has_profile = known.any(1)
        return loss + 0.5 * _of_kind(by_marker, known)[has_profile].sum() / max(int(has_profile.sum()), 1)

    def text_loss(self, embedded: Tensor, described: NDArray[np.int64]) -> Tensor:
        """Contrast of cells (S, n, D) with one prompt of every candidate type."""
        rng = self.rng
        texts = self.scorer.text([of_type[_skewed(rng, len(of_type))] for of_type in self.prompts])
        targets = [
            int(
                rng.choice(
                    self.broader[row] if self.broader[row] and rng.random() < self.settings.broader else self.own[row]
                )
            )
            for row in described
        ]
        target = torch.tensor(targets)
        hidden = self.relatives[described]
        hidden[torch.arange(len(target)), target] = False
        cosine = (embedded @ texts.T / self.settings.temperature).masked_fill(hidden, HIDDEN)
        return torch.stack([F.cross_entropy(of_member, target) for of_member in cosine]).sum()


def _of_kind(logits: Tensor, kinds: Tensor) -> Tensor:
    """Negative log probability that a cell is any of the kinds of its label, (..., n)."""
    log_probability = F.log_softmax(logits, -1)
    return -torch.logsumexp(log_probability.masked_fill(~kinds, HIDDEN), -1)


def _skewed(rng: np.random.Generator, n: int) -> int:
    """Pick a prompt; the first two, name and definition, more often than the others."""
    return int(rng.integers(min(n, 2)) if rng.random() < 0.5 else rng.integers(n))
