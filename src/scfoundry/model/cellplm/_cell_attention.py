"""What a cell takes from every other cell of its context: the weights that Flow-Attention implies but never forms."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, cast

import torch

from scfoundry.model.cellplm._attention import competition, flow, flow_context, total
from scfoundry.model.cellplm._streaming import ContextStates
from scfoundry.nn.attention_factors import AttentionFactors

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from torch import Tensor

    from scfoundry.model.cellplm._attention import Sweep
    from scfoundry.model.cellplm._module import CellPLMModule, EncoderLayer
    from scfoundry.nn.counts import SparseCounts

__all__ = ["attention_factors", "stream_factors"]


def attention_factors(sweep: Sweep) -> Iterator[AttentionFactors]:
    r"""Factorise the weights of a context, chunk by chunk.

    With queries :math:`q`, keys :math:`k`, incoming flow :math:`I`, allocation :math:`\alpha` and competition
    :math:`c` of Flow-Attention, its output is :math:`\sum_j w_{ij} v_j` with
    :math:`w_{ij} = \alpha_i I_i c_j \, (q_i \cdot k_j)`, hence :math:`a_i = \alpha_i I_i q_i` and
    :math:`b_j = c_j k_j`.

    ``sweep``: as in `flow_context`. Yields the factors of the chunks in order.
    """
    context = flow_context(sweep)
    (conserved_queries,) = total(((q / flow(q, context.keys)[..., None]).sum(0),) for (q,) in sweep("q"))
    norm, n_cells = total((competition(k, conserved_queries).sum(0), k.new_tensor(len(k))) for (k,) in sweep("k"))
    for q, k in sweep("qk"):
        weight = flow(q, context.conserved_keys).sigmoid() / flow(q, context.keys)
        competing = competition(k, conserved_queries) * (n_cells / norm)
        yield AttentionFactors(q * weight[..., None], k * competing[..., None])


@torch.no_grad()
def stream_factors(
    module: CellPLMModule,
    chunks: Iterable[tuple[SparseCounts, Tensor | None]],
    n_cells: int,
    *,
    depth: int,
    device: torch.device,
) -> Iterator[AttentionFactors]:
    """Factors of one layer's attention, chunk by chunk; the layers above are not computed.

    ``module``, ``chunks``, ``n_cells``, ``device``: as in `stream_embeddings`. ``depth``: number of the layer, from 0.
    """
    layers = cast("Sequence[EncoderLayer]", module.layers)
    with closing(ContextStates(module, n_cells, device=device)) as states:
        states.read(chunks)
        for layer in layers[:depth]:
            states.update(layer)
        yield from attention_factors(states.sweep(layers[depth]))
