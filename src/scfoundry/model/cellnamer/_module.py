"""Cells against labels: similarity with the text, match with the markers, likeness to known types."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from scfoundry.data.labels.hierarchy import claims, lineages, nearest, related
from scfoundry.model._module import FoundationModule
from scfoundry.model.cellnamer._expression import ExpressionMLP, GeneScale
from scfoundry.model.cellnamer._markers import MarkerProfiles, match, showing
from scfoundry.model.cellnamer._text import HashedText
from scfoundry.model.cellnamer._types import TypeHeads, claimed_probability

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from scfoundry.data.labels.ontology import CellOntology
    from scfoundry.model.cellnamer._config import CellNamerConfig

__all__ = ["CellNamerModule", "LabelPlan", "OfferedLabel"]

FLOOR = 0.02
MIN_SIMILARITY = 0.65


@dataclass(frozen=True)
class OfferedLabel:
    """What a user offers as an annotation."""

    prompts: Sequence[str]  # Texts that say the same
    ids: tuple[str, ...] = ()  # Cell Ontology ids that it stands for; several for a union of types, none for free text
    # Weights of marker genes by their position in the vocabulary, in place of the model's own
    markers: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class LabelPlan:
    """Labels as tensors, made once by :meth:`CellNamerModule.plan`."""

    texts: Tensor  # Embeddings of the labels, (P, D), then of the known types, (C, D)
    profiles: Tensor  # Marker profiles of the labels, (P, G), all zero where there is none
    shares: Tensor  # Share of every known type that each label claims, (P, C)
    own: Tensor  # The same without the siblings of types that have training cells, (P, C)
    outside: Tensor  # Known types with training cells that have nothing to do with any label, (C,) bool
    seen: Tensor  # Labels that claim a known type, (P,) bool
    described: Tensor  # Labels with a marker profile, (P,) bool
    proven: Tensor  # Labels whose known types come from two studies or more, (P,) bool

    @property
    def uninformed(self) -> list[int]:
        """Labels that no training cell and no marker speaks for: only the text is left to go by."""
        return torch.nonzero(~self.seen & ~self.described).flatten().tolist()


class LabelScores(NamedTuple):
    """What cells score."""

    # Calibrated logits of the labels, (n, P): their softmax is a probability, given that one of them is right
    logits: Tensor
    # Probability of a known type that has nothing to do with any label, (n,). Types known by their markers alone do not
    # count: there are many, and they fit any cell a little.
    outside: Tensor


class CellNamerModule(FoundationModule):
    r"""Scores cells against labels that need not have been in the training data.

    .. math:: \text{logit}_{il} = a\,\tilde c_{il} + b_l\,\tilde k_{il} + g_l \log(p_{il} + 0.02)

    with :math:`c` the cosine of cell and text, :math:`k` the match with the marker profile, both standardised within a
    cell over all known types, and :math:`p` the probability of the known types that the label claims. Types that two
    studies or more have shown go by :math:`p` rather than by their markers. The weights were chosen on left-out
    studies.

    Given its z-scores, every cell is scored by itself, so that neither block size nor order matters. The z-scores are
    relative to the data set at hand (see :class:`GeneScale`): its mean and standard deviation of every gene are the one
    thing by which cells influence each other here. Bringing neighbours to agree is a step of its own
    (`scfoundry.stats.adaptation`).
    """

    weights: Tensor
    n_studies: Tensor
    unknown_threshold: Tensor

    def __init__(self, config: CellNamerConfig, n_genes: int) -> None:
        super().__init__()
        self.config = config
        self.scale = GeneScale(n_genes)
        self.cells = ExpressionMLP(
            n_genes, config.n_hidden, config.n_latent, n_members=config.n_members, dropout=config.dropout
        )
        self.text = HashedText(config.n_buckets, config.n_text_hidden, config.n_latent)
        self.profiles = MarkerProfiles([len(config.markers[profile]) for profile in config.profiles], n_genes)
        self.heads = TypeHeads(len(config.types), len(config.profiles), n_genes, config)
        # Cosine, marker match and log probability of any label; changes of the latter two where the known types are
        # proven; what stands in for the log probability of a label that claims no known type.
        self.register_buffer("weights", torch.tensor([0.6, 1.0, 0.6, -0.5, 0.5, -1.0]))
        self.register_buffer("n_studies", torch.zeros(len(config.types)))
        # A cell is unknown if (1 - outside) times the probability of its best label, agreed on with cells that lie with
        # it, is lower: 5 % of the known cells of the left-out study that lost most.
        self.register_buffer("unknown_threshold", torch.tensor(0.0122))

    def embed_texts(self, prompts: Sequence[Sequence[str]]) -> Tensor:
        """Mean embedding of the prompts of each text, (P, D) of unit length."""
        lengths = torch.tensor([len(of_text) for of_text in prompts])
        embedded = self.text([prompt for of_text in prompts for prompt in of_text])
        return F.normalize(torch.stack([part.mean(0) for part in embedded.split(lengths.tolist())]), dim=-1)

    @torch.no_grad()
    def plan(self, labels: Sequence[OfferedLabel], ontology: CellOntology) -> LabelPlan:
        """Prepare labels for scoring.

        A label without an id is taken to be the known type whose text is most similar, if one is similar enough. A
        label with markers of its own stands for the known types that show these markers most, too, of those that no
        other label claims: cells of these types are not outside.
        """
        types, profiles, markers = self.config.types, self.config.profiles, self.profiles.markers
        texts = self.embed_texts([label.prompts for label in labels])
        known = self.embed_texts([_prompts(identifier, ontology) for identifier in types])
        ids = [label.ids or self._similar(text, known) for label, text in zip(labels, texts, strict=True)]
        rows = self._markers_of(labels, texts)
        if any(label.markers for label in labels):
            claimed, _ = claims(ids, types, ontology)
            by_others = claimed.sum(0) - claimed
            left = [[t for t, share in zip(types, of_others, strict=True) if not share] for of_others in by_others]
            ids = [terms + self._showing(row, own) for terms, row, own in zip(ids, rows, left, strict=True)]
        shares, _ = claims(ids, types, ontology)
        claimed_profiles, _ = claims(ids, profiles, ontology)
        lineage = lineages(profiles, ontology)
        for row, label, terms, claimed in zip(rows, labels, ids, claimed_profiles, strict=True):
            if not label.markers:
                # Where natural killer cell is a label too, its markers do not speak for innate lymphoid cell.
                free = [
                    p for p, c in zip(profiles, claimed, strict=True) if c or p in terms or lineage[p].isdisjoint(terms)
                ]
                mixed = [pair for term in terms for pair in nearest(term, free, ontology)]
                for profile, weight in mixed:
                    row += weight / len(terms) * markers[profiles.index(profile)]
        near = related([term for terms in ids for term in terms], types, ontology)
        shown = self.n_studies.cpu().numpy() > 0
        own = _own(shares, near, shown)
        outside = shown & ~own.any(axis=0) & ~near
        as_tensor = torch.from_numpy(shares).to(texts.device)
        proven = ((as_tensor > 0) & (self.n_studies >= 2)).any(1)
        return LabelPlan(
            texts=torch.cat([texts, known]),
            profiles=rows,
            shares=as_tensor,
            own=torch.from_numpy(own).to(texts.device),
            outside=torch.from_numpy(outside).to(texts.device),
            seen=as_tensor.sum(1) > 0,
            described=rows.sum(1) > 0,
            proven=proven,
        )

    def forward(self, z: Tensor, measured: Tensor, plan: LabelPlan) -> LabelScores:
        """Score n cells, given as z-scores (n, G) over the measured genes (G,)."""
        terms = self.terms(z, measured, plan)
        weights = self.weights
        logits = combine(terms.labels, plan.seen, plan.proven, weights)
        every = torch.ones_like(plan.outside)
        others = combine(terms.others, every, self.n_studies >= 2, weights)[:, plan.outside]
        # Among all known types, a label has what it claims of the whole probability.
        rivals = torch.cat([terms.labels[:2], terms.of_all[None]])
        rivalled = combine(rivals, plan.seen, plan.proven, weights)
        outside = torch.cat([rivalled, others], 1).softmax(1)[:, len(plan.shares) :].sum(1)
        return LabelScores(logits, outside)

    def terms(self, z: Tensor, measured: Tensor, plan: LabelPlan) -> _Terms:
        """What the logits are made of, for the labels and for all known types as if they had been labels."""
        n_labels = len(plan.shares)
        states = self.cells(z)
        cosine = (self.cells.embed(states) @ plan.texts.T).mean(0)
        cosine = _standardised(cosine, cosine[:, n_labels:])
        by_profile = self.profiles(z, measured)
        of_labels = _standardised(match(z, measured, plan.profiles), by_profile) * plan.described
        has_profile = self.heads.profile_of_type.sum(1) > 0
        of_types = _standardised(by_profile @ self.heads.profile_of_type.T, by_profile) * has_profile
        logits = self.heads(states, z, by_profile)
        every = torch.eye(len(self.config.types), device=z.device)
        p_labels = claimed_probability(logits, plan.shares, among_all=False)
        p_labels_of_all = claimed_probability(logits, plan.own, among_all=True)
        p_types = claimed_probability(logits, every, among_all=True)
        return _Terms(
            labels=torch.stack([cosine[:, :n_labels], of_labels, (p_labels + FLOOR).log()]),
            others=torch.stack([cosine[:, n_labels:], of_types, (p_types + FLOOR).log()]),
            of_all=(p_labels_of_all + FLOOR).log(),
        )

    def _markers_of(self, labels: Sequence[OfferedLabel], like: Tensor) -> Tensor:
        """Weights of the users' own markers, (P, G), rows adding up to 1, or to 0 where there are none."""
        rows = like.new_zeros(len(labels), self.profiles.n_genes)
        for row, label in zip(rows, labels, strict=True):
            if label.markers:
                weights = torch.tensor(list(label.markers.values()), dtype=row.dtype, device=row.device)
                row[list(label.markers)] = weights / weights.sum()
        return rows

    def _showing(self, markers: Tensor, types: Sequence[str]) -> tuple[str, ...]:
        if not markers.any():
            return ()
        columns = [self.config.types.index(t) for t in types]
        return tuple(types[i] for i in showing(markers, self.heads.profile_of_type[columns] @ self.profiles.markers))

    def _similar(self, text: Tensor, known: Tensor) -> tuple[str, ...]:
        similarity = known @ text
        best = int(similarity.argmax())
        return (self.config.types[best],) if similarity[best] > MIN_SIMILARITY else ()


def _own(shares: NDArray[np.float32], near: NDArray[np.bool_], shown: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Shares (P, C) that labels claim of what they are, contain or belong to, where there are training cells of these.

    A label without them may claim its siblings, for want of a better likeness: it is as sure of these as of itself.
    """
    has_cells = np.asarray((shares[:, near & shown] > 0).any(axis=1))
    return np.where(has_cells[:, None] & ~near, np.float32(0), shares)


class _Terms(NamedTuple):
    labels: Tensor  # (3, n, P)
    others: Tensor  # (3, n, C)
    of_all: Tensor  # (n, P)


def combine(terms: Tensor, seen: Tensor, proven: Tensor, weights: Tensor) -> Tensor:
    """Logits (n, P) from the three terms (3, n, P).

    Where several studies have shown what a type looks like, its probability weighs more and its markers less.
    """
    cosine, markers, log_probability = terms
    of_markers, of_probability = weights[1] + weights[3] * proven, weights[2] + weights[4] * proven
    return weights[0] * cosine + of_markers * markers + torch.where(seen, of_probability * log_probability, weights[5])


def _standardised(values: Tensor, background: Tensor) -> Tensor:
    if background.shape[1] < 2:
        return torch.zeros_like(values)
    mean, sd = background.mean(1, keepdim=True), background.std(1, keepdim=True)
    return (values - mean) / sd.clamp(min=1e-4)


def _prompts(identifier: str, ontology: CellOntology) -> Sequence[str]:
    return ontology.prompts(ontology[identifier]) if identifier in ontology else (identifier,)
