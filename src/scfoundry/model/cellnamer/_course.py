"""Training of the scorer on labelled studies and marker sets, as the recipe of the shipped weights does it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from scfoundry.data.labels.hierarchy import is_kind_of
from scfoundry.model.cellnamer._batches import Batches, fit_scale
from scfoundry.model.cellnamer._module import CellTypeScorer, ScorerConfig
from scfoundry.model.cellnamer._text_objectives import TextCourse

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from scfoundry.data.labels.ontology import CellOntology
    from scfoundry.model.cellnamer._studies import LabelledSet

__all__ = ["Settings", "marker_table", "n_studies", "shown_labels", "told_apart", "train"]


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
    labels = shown_labels(sets)
    profiles = sorted(markers)
    types = sorted({ids[0] for ids in labels if len(ids) == 1} | set(profiles))
    scorer = CellTypeScorer(ScorerConfig(types=tuple(types), profiles=tuple(profiles), **dict(config or {})), n_genes)
    scorer.scale = fit_scale(sets, n_genes, rng)
    scorer.n_studies.copy_(n_studies(types, sets, ontology))
    table = marker_table([markers[i] for i in profiles], n_genes)
    batches = Batches(sets, {ids: i for i, ids in enumerate(labels)}, table, scorer.scale, rng)
    course = TextCourse(
        scorer,
        labels,
        batches,
        ontology,
        temperature=settings.temperature,
        broader=settings.broader,
        made_up=settings.made_up,
    )
    _run(course, batches, settings, rng)
    return scorer.eval()


def _run(course: TextCourse, batches: Batches, settings: Settings, rng: np.random.Generator) -> None:
    """Take all steps."""
    scorer = course.scorer.train()
    linear = set(scorer.heads.linear.parameters())
    networks = [p for p in scorer.parameters() if p not in linear and p is not scorer.heads.strength]
    groups: list[dict[str, Any]]
    groups = [{"params": networks}, {"params": list(linear)}, {"params": course.slow, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, [settings.lr, settings.linear_lr, settings.marker_lr], total_steps=settings.n_steps, pct_start=0.1
    )
    for _ in range(settings.n_steps):
        batch = batches.draw(settings.n_cells, int(settings.n_cells * settings.made_up), rng)
        loss = sum(course.losses(batch, rng).values(), start=torch.zeros(()))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    course.conclude()


def shown_labels(sets: Sequence[LabelledSet]) -> list[tuple[str, ...]]:
    """Ids of every label that cells of some study have."""
    return sorted({ids for study in sets for label, ids in study.types.items() if label in study.labels})


def told_apart(sets: Sequence[LabelledSet], labels: Sequence[tuple[str, ...]]) -> NDArray[np.bool_]:
    """Which labels have cells in one and the same study, (labels, labels)."""
    number = {ids: i for i, ids in enumerate(labels)}
    apart = np.zeros((len(labels), len(labels)), dtype=bool)
    for study in sets:
        present = [number[ids] for ids in shown_labels([study])]
        apart[np.ix_(present, present)] = True
    np.fill_diagonal(apart, val=False)
    return apart


def n_studies(types: Sequence[str], sets: Sequence[LabelledSet], ontology: CellOntology) -> torch.Tensor:
    """In how many studies there are cells of each type, (C,)."""
    shown = [{i for ids in shown_labels([study]) for i in ids} for study in sets]
    return torch.tensor([sum(any(is_kind_of(i, t, ontology) for i in ids) for ids in shown) for t in types])


def marker_table(markers: Sequence[NDArray[np.int64]], n_genes: int) -> NDArray[np.bool_]:
    """Marker sets by the positions of their genes, as a table (K, G)."""
    table = np.zeros((len(markers), n_genes), dtype=bool)
    for row, genes in zip(table, markers, strict=True):
        row[genes] = True
    return table
