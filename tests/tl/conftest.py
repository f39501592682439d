from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import scfoundry as sf
from scfoundry.data.genes import GeneVocabulary
from scfoundry.model.langcell._matching import ZeroShot

if TYPE_CHECKING:
    from collections.abc import Callable

    from anndata import AnnData

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
def reads_texts(make_adata: Callable[..., AnnData]) -> sf.model.LangCell:
    """An untrained LangCell over the genes of `make_adata`."""
    genes = make_adata().var_names
    medians = np.random.default_rng(0).uniform(1, 3, len(genes))
    return sf.model.LangCell(genes=GeneVocabulary(genes, medians=medians), **TINY)


@pytest.fixture(scope="session")
def by_expression(make_adata: Callable[..., AnnData]) -> sf.model.LangCell:
    """A LangCell that reads standardised expression, as the default weights do, by random weights."""
    types = ("CL:0000236", "CL:0000576")
    structure = {"types": types, "profiles": types, "n_hidden": 8, "n_latent": 8, "n_buckets": 64, "n_text_hidden": 8}
    model = sf.model.LangCell(genes=make_adata().var_names, cell_encoder="expression_mlp", **structure)
    model.module.n_studies.fill_(1)
    return model


@pytest.fixture
def cells(make_adata: Callable[..., AnnData]) -> tuple[AnnData, AnnData]:
    """Cells to annotate, and a reference of the same two types."""
    both = make_adata(120)
    return both[:60].copy(), both[60:].copy()


class Says(sf.model.LangCell):
    """A model that says what a test wants it to say."""

    result: ZeroShot
    threshold: float | None = None
    without_knowledge: tuple[str, ...] = ()
    unknown_threshold = property(lambda self: self.threshold)

    def unsupported(self, labels: Any) -> list[str]:
        return [label.name for label in labels if label.name in self.without_knowledge]

    def refuse_unusable(self, labels: Any, **_: Any) -> None:
        """Whatever a test gives is of use."""

    def zero_shot(self, adata: Any, labels: Any, **_: Any) -> ZeroShot:
        self.labels = labels
        return self.result


@pytest.fixture
def says(reads_texts: sf.model.LangCell) -> Callable[..., Says]:
    """Make a model that gives these probabilities of labels sorted by name."""

    def make(probabilities: Any, *, fit: Any = None, threshold: float | None = None) -> Says:
        model = Says(
            genes=reads_texts.genes,
            **{name: getattr(reads_texts.config, name) for name in reads_texts.config.__dataclass_fields__},
        )
        model.result = ZeroShot(
            np.array(probabilities, np.float32), np.empty(0), None, None if fit is None else np.array(fit, np.float32)
        )
        model.threshold = threshold
        return model

    return make
