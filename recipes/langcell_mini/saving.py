"""A trained scorer as a LangCell, and the medians of its genes."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

import scfoundry as sf
from scfoundry.data.genes import GeneVocabulary

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scfoundry.model.cellnamer._module import CellTypeScorer
    from scfoundry.model.cellnamer._studies import LabelledSet

__all__ = ["as_model", "with_medians"]


def as_model(scorer: CellTypeScorer, genes: GeneVocabulary) -> sf.model.LangCell:
    """Put a scorer behind the face of the model."""
    model = sf.model.LangCell(genes=genes, **asdict(scorer.config))
    model.module.load_state_dict(scorer.state_dict())
    model.is_trained_ = True
    return model


def with_medians(genes: GeneVocabulary, everything: GeneVocabulary, sets: Sequence[LabelledSet]) -> GeneVocabulary:
    """Add the non-zero medians of the studies with counts, by which `sf.pp.rank_encode` divides.

    Genes that none of these studies detects get the median of all medians.
    """
    counts = sparse.vstack([study.counts for study in sets if study.is_counts], format="csr")
    found = sf.pp.gene_medians(ad.AnnData(counts, var=pd.DataFrame(index=everything.ids)))
    position = found.index_of(genes.ids)
    medians = np.where(position >= 0, found.medians[position], np.median(found.medians))
    return GeneVocabulary(genes.ids, genes.symbols, aliases=genes.aliases, species=genes.species, medians=medians)
