"""Where a model's cells move when a gene is perturbed in them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from tqdm.auto import tqdm

from scfoundry._settings import settings
from scfoundry.data.matrix.reader import keep_genes
from scfoundry.model._capabilities import ReplacesGenes, can

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from scfoundry._device import Compute
    from scfoundry.data.matrix.cells import Cells
    from scfoundry.model._capabilities import Embeds

__all__ = ["gene_shifts"]


def gene_shifts(
    model: Embeds, cells: Cells, genes: Mapping[str, int], value: float, compute: Compute
) -> dict[str, NDArray[np.float64]]:
    """Mean change of the embedding of cells when a gene is perturbed in all of them, (Z,) by name.

    A model that can be shown a replaced gene is shown one, with ``value`` in place of its log expression. Any other
    embeds the same cells without the counts of the gene; of a gene that none of the cells expresses it cannot say
    anything, and the gene is left out.
    """
    if can(model, ReplacesGenes):
        return model.replaced_gene_shifts(cells, genes, value, compute)  # type: ignore[attr-defined]
    counts = cells.read()
    expressed = np.unique(counts.indices)
    start = model.embed(cells, compute).mean(0, dtype=np.float64)
    shifts = {}
    for name, gene in tqdm(genes.items(), desc="perturbed", unit="gene", disable=not settings.show_progress):
        if gene in expressed:
            others = np.arange(counts.shape[1]) != gene
            without = cells.with_counts(keep_genes(counts, others))
            shifts[name] = model.embed(without, compute).mean(0, dtype=np.float64) - start
    return shifts
