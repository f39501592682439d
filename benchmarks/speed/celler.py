"""Speed of Celler at published size, as ratios within one run.

    python -m benchmarks speed_celler [--cpu-time]

Random weights, float32, cells of 1,200 positions. The embedding, of whose last layer only ``<cls>`` is computed, and
the states of all positions are measured against the machine's matrix products, and against torch's own
``nn.TransformerEncoder`` of the same size on its default path for inference. Whatever is compared takes turns; the best
of several runs counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from benchmarks.command import arguments, parse
from benchmarks.reporting import markdown_table, surroundings, write_results
from benchmarks.speed.clock import Clock
from benchmarks.speed.products import Peak
from scfoundry.data.tokens.bins import BinnedGenes
from scfoundry.model.celler._config import CellerConfig
from scfoundry.model.celler._module import CellerModule
from scfoundry.model.celler._tokens import TOKENS_PER_STEP, TokenisedCells
from scfoundry.nn.sequences import rows_by_length

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from scfoundry.model.celler._module import CellBatch

PUBLISHED = CellerConfig()
N_GENES = 60_694
SHAPES = ((1200, 512, 512), (1200, 512, 1536), (2048, 2048, 2048))
EMBEDDING, STATES, PEER = "embedding", "states of all positions", "torch.nn.TransformerEncoder"


def cells_of(n_cells: int, n_positions: int) -> TokenisedCells:
    """Random genes with random bins, as many in every cell."""
    rng = np.random.default_rng(0)
    n = n_positions - 1
    genes = np.concatenate([np.sort(rng.choice(N_GENES, n, replace=False)) for _ in range(n_cells)])
    bins = rng.integers(1, PUBLISHED.n_bins, n_cells * n)
    cells = BinnedGenes(np.arange(n_cells + 1) * n, genes.astype(np.int32), bins.astype(np.uint16))
    return TokenisedCells(cells, N_GENES, PUBLISHED.cls_value)


def flops(n_cells: int, n_positions: int, *, only_cls: bool = False) -> int:
    """Floating point operations of the matrix products of the layers; nothing else is counted."""
    d, f, n = PUBLISHED.n_hidden, PUBLISHED.n_intermediate, n_positions
    layer = n * (4 * d * d + 2 * d * f) + 2 * n * n * d
    # Of the last layer, <cls> needs the keys and values of all positions, and the rest of itself alone.
    last = n * 2 * d * d + 2 * d * d + 2 * d * f + 2 * n * d
    return 2 * n_cells * ((PUBLISHED.n_layers - only_cls) * layer + only_cls * last)


def default_encoder() -> nn.TransformerEncoder:
    """The same layers as torch builds them."""
    sizes = (PUBLISHED.n_hidden, PUBLISHED.n_heads, PUBLISHED.n_intermediate)
    layer = nn.TransformerEncoderLayer(*sizes, PUBLISHED.dropout, batch_first=True)
    return nn.TransformerEncoder(layer, PUBLISHED.n_layers).eval()


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    parser = arguments(__doc__, "speed_celler", data=False)
    parser.add_argument("--cpu-time", action="store_true", help="one thread, processor time: for a busy machine")
    parser.add_argument("--n-cells", type=int, default=4)
    parser.add_argument("--positions", type=int, default=PUBLISHED.max_length)
    parser.add_argument("--repeats", type=int, default=3)
    args = parse(parser, argv)

    # As after reading any data set: once a large block was freed, glibc keeps what is freed and asks for no pages anew.
    read = np.ones(30 * 2**20, dtype=np.uint8)
    del read
    clock, peak = Clock(cpu_time=args.cpu_time), Peak(torch.float32, SHAPES)
    results = {"command": args.command, "surroundings": surroundings(), "clock": "cpu" if args.cpu_time else "wall"}
    cells = cells_of(args.n_cells, args.positions)
    module, peer = CellerModule(PUBLISHED, N_GENES).eval(), default_encoder()

    def batches() -> Iterator[CellBatch]:
        for rows in rows_by_length(cells.genes.lengths, tokens_per_step=TOKENS_PER_STEP["cpu"]):
            yield cells.batch(rows)

    def by_torch() -> None:
        for batch in batches():
            # Its callers have a mask of padding, by which torch chooses its path.
            padding = torch.zeros(batch.genes.shape, dtype=torch.bool)
            peer(module.embed_inputs(batch), src_key_padding_mask=padding)

    ways: dict[str, Callable[[], object]] = {
        EMBEDDING: lambda: [module.embed([batch]) for batch in batches()],
        STATES: lambda: [module(batch) for batch in batches()],
        PEER: by_torch,
    }
    seconds = dict.fromkeys(ways, float("inf"))
    with torch.no_grad():
        for _ in range(args.repeats):
            for way, run in ways.items():
                peak.measure(clock)
                seconds[way] = min(seconds[way], clock.once(run))

    rows, measured = [], {}
    for way, taken in seconds.items():
        speed = flops(args.n_cells, args.positions, only_cls=way == EMBEDDING) / taken
        measured[way] = {
            "cells_per_second": args.n_cells / taken,
            "share_of_peak": speed / peak.flops_per_second,
            "times_faster_than_torch": seconds[PEER] / taken,
        }
        rows.append((way, *(f"{value:.2f}" for value in measured[way].values())))
    clock_name = (
        "one thread, processor time" if args.cpu_time else f"{torch.get_num_threads()} threads, time on the wall"
    )
    title = (
        f"{args.n_cells} cells of {args.positions:,} positions, float32, {clock_name}; peak of matrix products "
        f"{peak.flops_per_second / 1e9:.1f} GFLOP/s"
    )
    table = markdown_table(title, ["what", "cells/s", "share of peak", f"times {PEER}"], rows)
    print(table)
    results |= {"peak_flops_per_second": peak.flops_per_second, "measured": measured}
    write_results(args.out, results | {"surroundings_after": surroundings()}, [table])
