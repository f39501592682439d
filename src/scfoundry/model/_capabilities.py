"""What models can do beyond embedding. Tasks ask for these, never for the name of a model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, Self, runtime_checkable

from scfoundry._settings import logger

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray
    from scipy import sparse
    from torch import Tensor, nn

    from scfoundry._device import Compute
    from scfoundry.data.genes import GeneVocabulary
    from scfoundry.data.labels import Label
    from scfoundry.data.matrix.cells import Cells
    from scfoundry.nn.attention_factors import AttentionFactors, ClsAttention, GeneAttention
    from scfoundry.nn.label_loss import LabelLoss
    from scfoundry.stats.components import LogMoments

__all__ = [
    "AttendsFromCls",
    "AttendsToCells",
    "AttendsToGenes",
    "DiscriminatesTumour",
    "Embeds",
    "FineTunesExpression",
    "FineTunesImputation",
    "FineTunesIntegration",
    "FineTunesLabels",
    "FineTunesPathways",
    "FineTunesPerturbations",
    "HasGeneVectors",
    "PredictsRates",
    "ReadsTexts",
    "ReconstructsExpression",
    "ReplacesGenes",
    "TextScores",
    "TokenisesPathways",
    "Tunable",
    "can",
    "require",
    "warn_of_idle_positions",
]


@runtime_checkable
class Embeds(Protocol):
    """A model of cells. Nothing else is asked of one before it takes part in a task."""

    @property
    def genes(self) -> GeneVocabulary:
        """Vocabulary of G genes."""

    @property
    def provenance(self) -> dict[str, Any]:
        """Model, weights, licence, citation and versions, for ``uns``."""

    def embed(self, cells: Cells, compute: Compute) -> NDArray[np.float32]:
        """Embeddings, (n_obs, Z), rows in the order of the cells."""


@runtime_checkable
class HasGeneVectors(Protocol):
    """A model that learned a vector for every gene."""

    def gene_vectors(self) -> NDArray[np.float32]:
        """Vectors, (G, D): genes that vary together lie in similar directions."""


@runtime_checkable
class PredictsRates(Protocol):
    """A model whose latent of a cell says which share of its counts each gene takes."""

    @property
    def decoder(self) -> nn.Module:
        """What maps a latent to rates."""

    def expected_rates(self, latent: Tensor, genes: Tensor | None = None) -> Tensor:
        """Positive rates, (n, g), for latents (n, Z) and vocabulary positions (g,), with gradient.

        Only their ratios within a cell mean something.
        """


@runtime_checkable
class ReconstructsExpression(Embeds, Protocol):
    """A model that says of a cell what it should express, by what it does."""

    def reconstruct(self, log: sparse.csr_matrix, compute: Compute) -> NDArray[np.float32]:
        """Log expression of all genes, (n, G), by that which was measured, (n, G): log1p of counts per 10,000."""


@runtime_checkable
class TokenisesPathways(Embeds, Protocol):
    """A model that writes a cell as tokens of a codebook."""

    @property
    def n_codes(self) -> int:
        """Codes of the codebook, C."""

    def pathway_codes(self, counts: sparse.csr_matrix, compute: Compute) -> NDArray[np.int64]:
        """Codes of the N tokens of every cell, (n, N) from 0 to C - 1, each cell by itself; counts (n, G)."""


@runtime_checkable
class Tunable(Protocol):
    """A model that can be fine-tuned through its embedding: ``module.embed(batch)`` carries gradients."""

    @property
    def module(self) -> Any:
        """Torch module with ``embed(batch) -> Tensor``, (n, Z)."""

    @property
    def part_rates(self) -> Mapping[str, float]:
        """Submodules that learn slower than the others when fine-tuned, with their share of the learning rate."""

    def copy(self, **config: Any) -> Self:
        """Model with weights of its own."""

    def batch(self, counts: sparse.csr_matrix, coordinates: Tensor | None = None) -> Any:
        """What the module reads of the n cells of one context: counts (n, G), and x and y in [0, 1], (n, 2)."""


@runtime_checkable
class ReadsTexts(Embeds, Protocol):
    """A model with cells and texts in one space."""

    @property
    def unknown_threshold(self) -> float | None:
        """Cells whose `TextScores.fit` is below are unknown; `None` where nobody has fitted one."""

    @property
    def averages_prompts(self) -> bool:
        """Whether a cell type is read by several texts (name, synonyms, parents), or by name and definition alone."""

    @property
    def adapts(self) -> bool:
        """Whether the weights were calibrated for labels that cells lying together have been brought to agree on."""

    @property
    def adapted_temperature(self) -> float:
        """Divisor that calibrates log probabilities after that."""

    def check_labels(self, labels: Sequence[Label]) -> list[str]:
        """Names of the labels for which the weights know neither cells nor markers.

        ValueError: if the weights cannot use what a label brings along.
        """

    def embed_texts(self, texts: Sequence[str], compute: Compute) -> NDArray[np.float32]:
        """Unit vectors in the space of the cells, (L, Z)."""

    def score_texts(self, cells: Cells, labels: Sequence[Label], compute: Compute) -> TextScores:
        """Scores of every cell against the texts (and markers) of L labels, each cell by itself."""


@runtime_checkable
class AttendsToCells(Embeds, Protocol):
    """A model whose cells attend to each other."""

    @property
    def n_layers(self) -> int:
        """Layers in which they do."""

    def attention_factors(
        self, cells: Cells, layer: int, compute: Compute
    ) -> Iterator[tuple[NDArray[np.int64], Iterator[AttentionFactors]]]:
        """For every context its rows, and factors of the weights of a layer, chunk by chunk."""


@runtime_checkable
class AttendsToGenes(Embeds, Protocol):
    """A model that reads a cell as a sequence of ``<cls>`` and genes, which attend to each other."""

    @property
    def n_layers(self) -> int:
        """Layers in which they do."""

    def gene_attention(self, cells: Cells, layers: Collection[int], compute: Compute) -> Iterator[GeneAttention]:
        """Queries and keys of layers, by their numbers from 0: batch by batch, and within it layer by layer.

        Every cell is in one batch, also one without genes; batches follow in any order.
        """


@runtime_checkable
class AttendsFromCls(Embeds, Protocol):
    """A model that reads a cell as ``<cls>`` and genes, of which the former gathers what it needs from the latter."""

    def cls_attention(self, cells: Cells, compute: Compute) -> Iterator[ClsAttention]:
        """How ``<cls>`` divides its attention between genes, mean over heads and layers, batch by batch.

        Every cell is in one batch, also one without genes; batches follow in any order.
        """


@runtime_checkable
class DiscriminatesTumour(Embeds, Protocol):
    """A model that learned to tell cells of tumours from those of normal tissue."""

    def tumour_probabilities(self, cells: Cells, compute: Compute) -> NDArray[np.float32]:
        """Probability that a cell comes from a tumour, (n_obs,), each cell by itself."""


@runtime_checkable
class ReplacesGenes(Protocol):
    """A model that can be shown cells in which the value of a gene was replaced."""

    def replaced_gene_shifts(
        self, cells: Cells, genes: Mapping[str, int], value: float, compute: Compute
    ) -> dict[str, NDArray[np.float64]]:
        """Mean change of the embedding of cells when the log expression of a gene is ``value``, (Z,) by name."""


@runtime_checkable
class FineTunesExpression(Embeds, Protocol):
    """A model that goes on learning from cells without labels, by what it was pre-trained on."""

    def fine_tune_expression(self, cells: Cells, *, max_epochs: int | None, seed: int, compute: Compute) -> Self:
        """Copy that learned from cells, contexts being their batches; some of them have counts."""


@runtime_checkable
class FineTunesImputation(Protocol):
    """A model whose paper fine-tunes it on spots and cells together."""

    def fine_tune_imputation(
        self,
        spots: Cells,
        reference: Cells,
        *,
        panel: NDArray[np.int64],
        hidden: NDArray[np.int64],
        max_epochs: int | None,
        seed: int,
        compute: Compute,
    ) -> Self:
        """Copy that learned to predict genes from the ``panel`` of the spots; ``hidden`` genes say when to stop."""


@runtime_checkable
class FineTunesIntegration(Embeds, Protocol):
    """A model that learns from cells of several batches to embed them without what sets the batches apart."""

    def fine_tune_integration(self, cells: Cells, *, max_epochs: int | None, seed: int, compute: Compute) -> Self:
        """Copy that learned from cells, contexts being their batches, by the genes that they show."""

    def embed_integrated(self, cells: Cells, compute: Compute) -> NDArray[np.float32]:
        """Embeddings by such a copy, (n_obs, Z): of cells of its batches, found by name, and of others, too."""


@runtime_checkable
class FineTunesLabels(Protocol):
    """A model whose paper fine-tunes it on labelled cells in a way of its own, so that the copy itself tells labels."""

    def fine_tune_labels(
        self,
        cells: Cells,
        labels: Sequence[Label],
        codes: NDArray[np.int64],
        *,
        max_epochs: int | None,
        loss: LabelLoss,
        seed: int,
        compute: Compute,
        lora: bool = False,
    ) -> Self:
        """Copy that learned the label of every cell, numbered by ``codes`` (n_obs,), by a loss (and by ``lora``)."""

    def label_probabilities(self, cells: Cells, labels: Sequence[Label], compute: Compute) -> NDArray[np.float32]:
        """Probability of every label that was learned, (n_obs, L)."""


@runtime_checkable
class FineTunesPathways(Protocol):
    """A model whose paper fine-tunes it on labels of which a cell may have several."""

    def fine_tune_pathways(
        self, cells: Cells, targets: pd.DataFrame, *, max_epochs: int | None, seed: int, compute: Compute
    ) -> Self:
        """Copy that learned which pathways are active, 0 or 1, (n_obs, P)."""

    def pathway_probabilities(self, cells: Cells, compute: Compute) -> NDArray[np.float32]:
        """Probability of every pathway that was learned, each on its own, (n_obs, P)."""


@runtime_checkable
class FineTunesPerturbations(Protocol):
    """A model whose paper trains it to turn controls into perturbed profiles."""

    def fine_tune_perturbations(
        self,
        controls: Cells,
        conditions: Sequence[tuple[str, Sequence[int]]],
        profiles: NDArray[np.float64],
        genes: NDArray[np.int64],
        *,
        value: float,
        max_epochs: int | None,
        seed: int,
        compute: Compute,
    ) -> tuple[Self, dict[str, NDArray[np.float32]]]:
        """Copy, and weights of a head by name, that turn controls into profiles.

        Of each condition the context of its controls and the vocabulary positions of the genes whose log expression is
        ``value`` in it, none for the controls as they are; and its mean log expression of ``genes``, (n, g).
        """

    def replaced_gene_changes(
        self,
        controls: Cells,
        head: dict[str, NDArray[np.float32]],
        conditions: Sequence[Sequence[int]],
        value: float,
        compute: Compute,
    ) -> NDArray[np.float64]:
        """Mean change that the head predicts for controls of one context with genes replaced, (n, G)."""


@dataclass(frozen=True)
class TextScores:
    """How n cells score against L labels by the texts of the labels.

    ``matching`` is the probability that cell and label match, each pair on its own; NaN where a label was not
    considered for a cell, `None` if the weights have no matching head or it was left out. ``fit`` is how well the best
    label fits at all, from 0 to 1: by it cells are found that no label fits; the highest probability if `None`.
    """

    probabilities: NDArray[np.float32]  # (n, L), rows sum to 1
    similarity: NDArray[np.float32]  # (n, L), cosine of cell and label
    matching: NDArray[np.float32] | None  # (n, L)
    fit: NDArray[np.float32] | None = None  # (n,)
    moments: LogMoments | None = None  # of the cells' log expression, where they were gathered in passing
    params: Mapping[str, Any] = field(default_factory=dict)  # settings of the weights that took effect


# Capability -> what a model without it lacks, and weights that have it.
ABILITIES: dict[type, tuple[str, str]] = {
    Embeds: ("does not embed cells", "cellplm"),
    HasGeneVectors: ("has no vectors of genes", "cellplm"),
    PredictsRates: ("has no decoder of counts", "cellplm"),
    ReconstructsExpression: ("does not reconstruct the expression of a cell", "scpalm"),
    TokenisesPathways: ("has no codebook of pathway tokens", "scpalm"),
    Tunable: ("cannot be fine-tuned through its embedding", "cellplm"),
    ReadsTexts: ("reads no texts", "cellnamer"),
    AttendsToCells: ("reads every cell by itself", "cellplm"),
    AttendsToGenes: ("does not read a cell as genes that attend to each other", "langcell"),
    AttendsFromCls: ("does not read a cell as <cls> that attends to genes", "langcell"),
    DiscriminatesTumour: ("has not learned to tell tumours from normal tissue", "celllm"),
    ReplacesGenes: ("cannot be shown a replaced gene", "cellplm"),
    FineTunesExpression: ("has no fine-tuning on cells without labels", "cellplm"),
    FineTunesImputation: ("has no published fine-tuning for imputation", "cellplm"),
    FineTunesIntegration: ("has no fine-tuning on batches", "cellplm"),
    FineTunesLabels: ("has no published fine-tuning on labels", "langcell"),
    FineTunesPathways: ("has no published fine-tuning on pathways", "langcell"),
    FineTunesPerturbations: ("has no published training on perturbations", "cellplm"),
}


def can(model: object, capability: type) -> bool:
    """Whether a model, with the weights it has, can do something."""
    return isinstance(model, capability) and lack_of(model, capability) is None


def require(model: Any, capability: type, *, caller: str) -> Any:
    """Return the model as one that can do something.

    ValueError: if it cannot; the message names weights that can.
    """
    if not isinstance(model, capability):
        lack, weights = ABILITIES[capability]
        msg = (
            f"{caller} cannot use {type(model).__name__}, which {lack}. Use weights that can: "
            f'{caller}(..., model="{weights}").'
        )
        raise ValueError(msg)
    if why := lack_of(model, capability):
        msg = f'{why} Use weights that can: {caller}(..., model="{ABILITIES[capability][1]}").'
        raise ValueError(msg)
    return model


def lack_of(model: object, capability: type) -> str | None:
    """Why these weights of a model cannot do what others of its kind can."""
    lacks = getattr(model, "lacks", None)
    return None if lacks is None else lacks(capability)


def warn_of_idle_positions(model: Any, cells: Cells) -> None:
    """Say that coordinates were given to a model that does not read them."""
    if cells.coordinates and not getattr(model, "reads_positions", False):
        weights = model.provenance["weights"]
        logger.warning("The weights %r use no positions: the coordinates have no effect.", weights)
