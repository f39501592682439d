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
