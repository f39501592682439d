from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

import scfoundry as sf
from scfoundry.data.genes import GeneVocabulary

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
