"""What a cell takes from every other cell of its context: the weights that Flow-Attention implies but never forms."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from tqdm.auto import tqdm

from scfoundry._device import resolve_device
from scfoundry._settings import logger, settings
from scfoundry.model.cellplm._attention import flow, flow_context, total
from scfoundry.model.cellplm._streaming import chunk_size
from scfoundry.model.cellplm._tissues import Tissues
from scfoundry.nn.attention_factors import AttentionFactors
from scfoundry.nn.chunk_store import ChunkStore, resident_bytes
from scfoundry.tasks.cell_attention.pairs import CellPairs, GroupTable, LargestWeights

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray
    from scipy import sparse
    from torch import Tensor

    from scfoundry.data.matrix.contexts import Context
    from scfoundry.data.matrix.reader import CountsReader
    from scfoundry.model.cellplm._attention import Sweep
    from scfoundry.model.cellplm._model import CellPLM
    from scfoundry.model.cellplm._module import CellPLMModule, EncoderLayer
    from scfoundry.nn.counts import SparseCounts
    from scfoundry.tasks.cell_attention.pairs import Scale

__all__ = ["CellAttention", "ShowsAttention", "attention_factors", "stream_factors"]


@dataclass(frozen=True)
class CellAttention:
    """Attention between cells.

    Attributes
    ----------
    weights
        The largest of every cell, rows are the cells that attend, (n_obs, n_obs).
    observed
        Sum of all weights between groups, rows are the groups that attend, (P, P).
    expected
        The same if every cell spread its attention evenly over its context.
    n_pairs
        Ordered pairs of cells within contexts, (P, P).
    """

    weights: sparse.csr_matrix
    observed: NDArray[np.float64]
    expected: NDArray[np.float64]
    n_pairs: NDArray[np.int64]


class ShowsAttention:
    """The part of `CellPLM` that `sf.tl.cell_attention` uses."""

    def cell_attention(
        self,
        reader: CountsReader,
        groups: Sequence[Context],
        xy: Mapping[str, NDArray[np.float32]],
        codes: NDArray[np.int64],
        n_codes: int,
        *,
        k: int,
        encoder_layer: int = -1,
        scale: Scale = "shares",
        batch_size: int | None = None,
        device: str = "auto",
    ) -> CellAttention:
        """Weights with which the cells of a context attend to each other, averaged over the heads of a layer.

        Cells without counts stand in the context, as they do when embedding, but none of their weights is kept, and
        they are in no group.

        Parameters
        ----------
        reader
            Checked and aligned data.
        groups, xy
            Contexts, and coordinates of those that have some.
        codes, n_codes
            Number of the group of every cell, (n_obs,), -1 for none; number of groups P.
        k
            Weights to keep per cell.
        encoder_layer
            Number of the layer, from the end if negative.
        scale
            Of the weights, see `CellPairs`.
        batch_size
            Cells on the device at a time. Does not change the result.
        device
            As in `get_latent_representation`. Always in float32: weights of a context differ by less than bfloat16
            resolves.

        Raises
        ------
        ValueError
            If there is no such layer, ``batch_size`` is not positive or a GPU is asked for that is not there.
        """
        model = cast("CellPLM", self)
        n_layers = model.config.n_layers
        if not -n_layers <= encoder_layer < n_layers:
            msg = (
                f"{model.provenance['weights']!r} has {n_layers} encoder layers, 0 to {n_layers - 1}; got "
                f"encoder_layer={encoder_layer}. The last one: encoder_layer=-1."
            )
            raise ValueError(msg)
        if xy and model.config.positions == "none":
            logger.warning('These weights use no positions (positions="none"): the coordinates have no effect.')
        torch_device = resolve_device(device)
        size = chunk_size(batch_size, torch_device)
        model.module.to(torch_device).eval()
        tissues = Tissues(reader, xy)
        on_disk = 4 * max(len(g.rows) for g in groups) * model.config.n_hidden * 4 > resident_bytes(torch_device)
        kept, table = LargestWeights(reader.n_obs), GroupTable(n_codes)
        bar = tqdm(desc="cell attention", total=reader.n_obs, unit="cell", disable=not settings.show_progress)
        with bar, torch.no_grad(), torch.autocast(torch_device.type, enabled=False):
            for context in groups:
                expressed: list[NDArray[np.bool_]] = []
                chunks = _noting(tissues.chunks(context, size), expressed)
                depth = encoder_layer % n_layers
                factors = stream_factors(model.module, chunks, depth=depth, device=torch_device, on_disk=on_disk)
                with closing(CellPairs(factors, scale=scale, device=torch_device, on_disk=on_disk)) as pairs:
                    there = np.concatenate(expressed)
                    table.add(pairs, np.where(there, codes[context.rows], -1))
                    for rows, columns, weights in pairs.largest(k, there):
                        kept.add(context.rows[rows], context.rows[columns], weights)
                        bar.update(len(rows))
                    bar.update(int(np.sum(~there)))
        return CellAttention(kept.matrix(), table.observed, table.expected, table.n_pairs)


def _noting(
    chunks: Iterable[tuple[SparseCounts, Tensor | None]], expressed: list[NDArray[np.bool_]]
) -> Iterator[tuple[SparseCounts, Tensor | None]]:
    """Hand chunks on, and note which of their cells have counts: the data are read once."""
    for counts, coordinates in chunks:
        expressed.append((counts.totals() > 0).numpy())
        yield counts, coordinates


def attention_factors(sweep: Sweep) -> Iterator[AttentionFactors]:
    r"""Factorise the weights of a context, chunk by chunk.

    With queries :math:`q`, keys :math:`k`, incoming flow :math:`I`, allocation :math:`\alpha` and competition
    :math:`c` of Flow-Attention, its output is :math:`\sum_j w_{ij} v_j` with
    :math:`w_{ij} = \alpha_i I_i c_j \, (q_i \cdot k_j)`, hence :math:`a_i = \alpha_i I_i q_i` and
    :math:`b_j = c_j k_j`.

    Parameters
    ----------
    sweep
        As in `flow_context`.

    Yields
    ------
    The factors of the chunks in order.
    """
    context = flow_context(sweep)
    (conserved_queries,) = total(((q / flow(q, context.keys)[..., None]).sum(0),) for (q,) in sweep("q"))
    norm, n_cells = total((_competing(k, conserved_queries).sum(0), k.new_tensor(len(k))) for (k,) in sweep("k"))
    for q, k in sweep("qk"):
        weight = flow(q, context.conserved_keys).sigmoid() / flow(q, context.keys)
        competition = _competing(k, conserved_queries) * (n_cells / norm)
        yield AttentionFactors(q * weight[..., None], k * competition[..., None])


def _competing(k: Tensor, conserved_queries: Tensor) -> Tensor:
    return flow(k, conserved_queries).clamp(-1, 1).exp()


def stream_factors(
    module: CellPLMModule,
    chunks: Iterable[tuple[SparseCounts, Tensor | None]],
    *,
    depth: int,
    device: torch.device,
    on_disk: bool,
) -> Iterator[AttentionFactors]:
    """Factors of one layer's attention, chunk by chunk; the layers above are not computed.

    Parameters
    ----------
    module, chunks, device
        As in `stream_embeddings`.
    depth
        Number of the layer.
    on_disk
        Whether states rest in a file.
    """
    states = ChunkStore(device, on_disk=on_disk)
    layers = cast("Sequence[EncoderLayer]", module.layers)

    def sweep_of(layer: EncoderLayer) -> Sweep:
        return lambda names: (layer.project(states[i], names) for i in range(len(states)))

    try:
        for counts, coordinates in chunks:
            expression = counts.to(device).log_normalised(module.config.library_size)
            placed = None if coordinates is None else coordinates.to(device)
            states.append(module.embedder(expression, placed).float())
        for layer in layers[:depth]:
            context = flow_context(sweep_of(layer))
            for i in range(len(states)):
                h = states[i]
                states[i] = layer.update(h, layer.project(h, "q")[0], context)
        yield from attention_factors(sweep_of(layers[depth]))
    finally:
        states.close()
