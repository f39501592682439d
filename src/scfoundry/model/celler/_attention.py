"""Which genes of a cell attend to which: what the layers compare, without the softmax."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from scfoundry.model.celler._module import N_SPECIAL
from scfoundry.nn.attention_factors import GeneAttention
from scfoundry.nn.transformer import queries_and_keys

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from scfoundry.model.celler._module import CellBatch, CellerModule

__all__ = ["gene_attention"]


@torch.no_grad()
def gene_attention(
    module: CellerModule, batches: Iterable[CellBatch], layers: Collection[int]
) -> Iterator[GeneAttention]:
    """Queries and keys of some layers; see `AttendsToGenes`."""
    n_genes = module.genes.num_embeddings - N_SPECIAL
    for batch in batches:
        genes = batch.genes.masked_fill(batch.genes >= n_genes, -1)
        x = module.embed_inputs(batch)
        for layer, queries, keys in queries_and_keys(module.layers, x, batch.present, layers):
            yield GeneAttention(batch.rows.cpu().numpy(), layer, genes, batch.present, queries, keys)
