"""Embed contexts by workers: a small one whole, a large one layer by layer.

Of a large context every worker holds the states of some cells. Each layer needs sums over all cells: workers send those
over theirs, and get those of the context.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from tqdm.auto import tqdm

from scfoundry._settings import settings
from scfoundry.data.matrix.contexts import unit_coordinates
from scfoundry.model._parts import computed
from scfoundry.model.cellplm._attention import flow_context_by, total
from scfoundry.nn.counts import SparseCounts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from scfoundry._device import Compute
    from scfoundry.data.matrix.cells import Cells
    from scfoundry.data.matrix.contexts import Context
    from scfoundry.data.matrix.reader import CountsReader
    from scfoundry.model.cellplm._attention import FlowContext, Projection
    from scfoundry.model.cellplm._module import CellPLMModule, EncoderLayer

__all__ = ["embed_by_workers"]

WIDE = torch.float64


def embed_by_workers(
    model: Any, cells: Cells, contexts: Sequence[Context], compute: Compute
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Rows of cells of some contexts, some after others, and their posterior means, (n, Z)."""
    workers: Any = cells.workers
    at_once = len(workers.spans(cells.n_obs)[0])
    small = [context.rows for context in contexts if len(context.rows) <= at_once]
    if small:
        yield from computed(model, "embed", cells, small, compute)
    for context in contexts:
        if len(context.rows) > at_once:
            yield from _embed_large(model.module, cells, context, compute)


@dataclass
class States:
    """States of consecutive cells of a context, (n, D), in a worker."""

    values: Tensor
    compute: Compute
    # Projections of these states, which are asked for in three passes; not sent with them.
    _projected: dict[str, Tensor] = field(default_factory=dict, repr=False)

    def projections(self, layer: EncoderLayer, names: str) -> Projection:
        """Those that are named, of all cells."""
        for name in names:
            if name not in self._projected:
                self._projected |= dict(zip("qkv", layer.project(self.values), strict=True))
        return tuple(self._projected[name] for name in names)

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_projected": {}}


def _embed_large(
    module: CellPLMModule, cells: Cells, context: Context, compute: Compute
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    workers: Any = cells.workers
    unit = cells.coordinates.get(context.name)
    placed = None if unit is None else torch.from_numpy(unit_coordinates(unit))
    spans = workers.spans(len(context.rows))
    parts = [
        (
            cells.reader.apart(here := context.rows[rows]),
            cells.reader.kept_by_worker(here),
            None if placed is None else placed[rows],
        )
        for rows in spans
    ]
    states = workers.hold(_read, parts, module, compute)
    for depth in range(len(module.layers)):

        def gather(names: str, term: Callable[..., Any], *sums: Tensor, here: Any = states, depth: int = depth) -> Any:
            return total(workers.map(_sums, here, module, depth, names, term, sums), torch.float32)

        states = workers.hold(_updated, states, module, depth, flow_context_by(gather))
    with tqdm(desc="cellplm", total=len(context.rows), unit="cell", disable=not settings.show_progress) as bar:
        for rows, part in zip(spans, workers.map(_latent, states, module), strict=True):
            yield context.rows[rows], part
            bar.update(len(part))


@torch.no_grad()
def _read(part: tuple[CountsReader, Any, Tensor | None], module: CellPLMModule, compute: Compute) -> States:
    reader, kept, placed = part
    if kept is not None:
        reader.fill(kept)
    compute = compute.elsewhere()
    module.to(compute.device).eval()
    size, states = compute.cells_at_once, []
    with compute.autocast():
        # A piece of work holds the states of many cells, and the counts of few at a time.
        for i, counts in enumerate(reader.blocks(np.arange(reader.n_obs), size)):
            expression = SparseCounts.from_csr(counts).to(compute.device).log_normalised(module.config.library_size)
            here = None if placed is None else placed[i * size : (i + 1) * size].to(compute.device)
            states.append(module.embedder(expression, here).float())
    return States(torch.cat(states), compute)


@torch.no_grad()
def _sums(
    states: States,
    module: CellPLMModule,
    depth: int,
    names: str,
    term: Callable[..., tuple[Tensor, ...]],
    sums: tuple[Tensor, ...],
) -> list[Tensor]:
    """Sums over the cells of one worker, in double precision, on the CPU."""
    device = states.values.device
    with states.compute.autocast():
        layer = cast("EncoderLayer", module.to(device).layers[depth])
        found = term(*states.projections(layer, names), *(x.to(device) for x in sums))
    return [x.cpu() for x in total([found], WIDE)]


@torch.no_grad()
def _updated(states: States, module: CellPLMModule, depth: int, context: FlowContext) -> States:
    """States after a layer; the old ones stay as they are, as this may have to be done again."""
    device = states.values.device
    with states.compute.autocast():
        layer = cast("EncoderLayer", module.to(device).layers[depth])
        (q,) = states.projections(layer, "q")
        there = type(context)(*(x.to(device) for x in context))
        return States(layer.update(states.values.clone(), q, there), states.compute)


@torch.no_grad()
def _latent(states: States, module: CellPLMModule) -> NDArray[np.float32]:
    with states.compute.autocast():
        module.to(states.values.device)
        return module.latent.embedding(module.norm(states.values)).float().cpu().numpy()
