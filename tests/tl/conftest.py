from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from cases import MODELS

import scfoundry as sf
from scfoundry.data.genes import GeneVocabulary
from scfoundry.model._capabilities import TextScores

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from anndata import AnnData

    from scfoundry._device import Compute
    from scfoundry.data.labels import Label
    from scfoundry.data.matrix.cells import Cells

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cell", "type", ":", ".", "a", "of", "b", "t", "natural"]
WORDS += ["killer", "monocyte", "dendritic", "lymphocyte", "lineage"]
TINY = {
    "n_hidden": 16,
    "n_layers": 1,
    "n_heads": 2,
    "n_intermediate": 16,
    "n_text_hidden": 16,
    "n_text_layers": 1,
    "n_text_heads": 2,
    "n_text_intermediate": 16,
    "n_latent": 8,
    "text_vocabulary": tuple(WORDS),
    "n_words": len(WORDS),
}


@pytest.fixture(scope="session")
def make_reader_of_texts(make_adata: Callable[..., AnnData]) -> Callable[..., sf.model.LangCell]:
    """Make an untrained LangCell over the genes of `make_adata`, with further values of its configuration."""
    genes = make_adata().var_names
    medians = np.random.default_rng(0).uniform(1, 3, len(genes))

    def make(**config: Any) -> sf.model.LangCell:
        return sf.model.LangCell(genes=GeneVocabulary(genes, medians=medians), **(TINY | config))

    return make


@pytest.fixture(scope="session")
def reads_texts(make_reader_of_texts: Callable[..., sf.model.LangCell]) -> sf.model.LangCell:
    """An untrained LangCell over the genes of `make_adata`."""
    return make_reader_of_texts()


@pytest.fixture(scope="session")
def by_expression(make_adata: Callable[..., AnnData]) -> sf.model.CellNamer:
    """An untrained CellNamer over the genes of `make_adata` that knows two types."""
    return MODELS["cellnamer"](make_adata().var_names)


@pytest.fixture
def cells(make_adata: Callable[..., AnnData]) -> tuple[AnnData, AnnData]:
    """Cells to annotate, and a reference of the same two types."""
    both = make_adata(120)
    return both[:60].copy(), both[60:].copy()


class Says:
    """A model of cells and texts that says what a test wants it to say."""

    averages_prompts = True
    adapts = False
    adapted_temperature = 1.0

    def __init__(self, genes: GeneVocabulary, scores: TextScores, unknown_threshold: float | None) -> None:
        self.genes, self.scores, self.unknown_threshold = genes, scores, unknown_threshold
        self.provenance = {"model": "says", "weights": "untrained"}
        self.without_knowledge: tuple[str, ...] = ()
        self.latent: np.ndarray | None = None

    def check_labels(self, labels: Sequence[Label]) -> list[str]:
        return [label.name for label in labels if label.name in self.without_knowledge]

    def embed(self, cells: Cells, compute: Compute) -> np.ndarray:
        return cells.read().toarray() if self.latent is None else self.latent

    def embed_texts(self, texts: Sequence[str], compute: Compute) -> np.ndarray:
        return np.eye(len(texts), len(self.genes), dtype=np.float32)

    def score_texts(self, cells: Cells, labels: Sequence[Label], compute: Compute) -> TextScores:
        self.labels = labels
        return self.scores


@pytest.fixture
def says(make_adata: Callable[..., AnnData]) -> Callable[..., Says]:
    """Make a model that gives these probabilities of labels sorted by name."""
    genes = GeneVocabulary(make_adata().var_names)

    def make(probabilities: Any, *, fit: Any = None, threshold: float | None = None) -> Says:
        fitting = None if fit is None else np.array(fit, np.float32)
        return Says(genes, TextScores(np.array(probabilities, np.float32), np.empty(0), None, fitting), threshold)

    return make
