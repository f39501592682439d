"""Speed of CellLM at published size: real positions alone, against padding as released, and in bfloat16.

    python -m benchmarks speed_celllm [--cpu-time]

Random weights, cells of 2,000 genes. Padding to 6,000 positions takes its share of attention: one position that counts
as often stands for all of it, or every cell is filled up, as released, and both give the same. Whatever is compared
takes turns; the best of several runs counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy import sparse

from benchmarks.command import arguments, parse
from benchmarks.reporting import markdown_table, surroundings, write_results
from benchmarks.speed.clock import Clock
from benchmarks.speed.products import Peak
from scfoundry.model.celllm._config import CellLMConfig
from scfoundry.model.celllm._module import CellLMModule
from scfoundry.model.celllm._tokens import PAD, CellBatch, TokenisedCells

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PUBLISHED = CellLMConfig(padding="official")
N_VOCABULARY = 19_379
SHAPES = ((2000, 512, 1024), (2000, 512, 2048), (2048, 2048, 2048))
FAST, HALF, FILLED = "float32, padding counted", "bfloat16, padding counted", "float32, filled up to 6,000"


def cell_of(n_expressed: int, seed: int) -> CellBatch:
    """A random cell, its padding one position."""
    rng = np.random.default_rng(seed)
    genes = np.sort(rng.choice(N_VOCABULARY, n_expressed, replace=False))
    values = rng.uniform(0.5, 5.5, n_expressed).astype(np.float32)
    cell = sparse.csr_matrix((values, genes, [0, n_expressed]), shape=(1, N_VOCABULARY))
    return TokenisedCells(cell, PUBLISHED).batch(np.arange(1))


def filled_up(cell: CellBatch) -> CellBatch:
    """The same cell with all of its padding, position by position."""
    n = PUBLISHED.max_length - int(cell.present.sum())
    more = [torch.full((1, n), value, dtype=x.dtype) for x, value in zip(cell[1:], (PAD, 0, False, 1), strict=True)]
    more[1] += N_VOCABULARY + 1
    real = [x[:, :-1] for x in cell[1:]]
    return CellBatch(cell.rows, *(torch.cat(pair, 1) for pair in zip(real, more, strict=True)))


def flops(n_positions: int) -> int:
    """Floating point operations of the matrix products; of the last layer, ``<cls>`` asks alone."""
    c, n = PUBLISHED, n_positions
    d, inner, f, m = c.n_hidden, c.n_heads * c.n_head, c.n_intermediate, c.n_features
    asked = 2 * d * inner + 2 * d * f + 2 * inner * m  # queries, outputs, network; features and sums over them
    answered = 2 * d * inner + 2 * inner * m  # keys and values; features and products
    return 2 * ((c.n_layers - 1) * n * (asked + answered) + n * answered + asked)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    parser = arguments(__doc__, "speed_celllm", data=False)
    parser.add_argument("--cpu-time", action="store_true", help="one thread, processor time: for a busy machine")
    parser.add_argument("--genes", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=3)
    args = parse(parser, argv)

    clock, peak = Clock(cpu_time=args.cpu_time), Peak(torch.float32, SHAPES)
    results: dict[str, Any] = {"command": args.command, "surroundings": surroundings()}
    torch.manual_seed(0)
    module, cell = CellLMModule(PUBLISHED, N_VOCABULARY).eval(), cell_of(args.genes, 0)
    filled, found = filled_up(cell), {}

    def run(name: str, of: CellBatch, *, half: bool = False) -> Callable[[], None]:
        def embed() -> None:
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                found[name] = module.embed([of]).float()

        return embed

    ways = {FAST: run(FAST, cell), HALF: run(HALF, cell, half=True), FILLED: run(FILLED, filled)}
    with torch.no_grad():
        seconds = dict.fromkeys(ways, float("inf"))
        for _ in range(args.repeats):
            for name, work in ways.items():
                peak.measure(clock)
                seconds[name] = min(seconds[name], clock.once(work))
    rows, measured = [], {}
    positions = {FAST: args.genes + 2, HALF: args.genes + 2, FILLED: PUBLISHED.max_length}
    for name, taken in seconds.items():
        measured[name] = {
            "cells_per_second": 1 / taken,
            "share_of_peak": flops(positions[name]) / taken / peak.flops_per_second,
            "times_faster_than_filled": seconds[FILLED] / taken,
            "cosine": float(torch.cosine_similarity(found[name], found[FAST])),
        }
        rows.append(
            (name, *(f"{value:.4f}" if key == "cosine" else f"{value:.2f}" for key, value in measured[name].items()))
        )
    clock_name = (
        "one thread, processor time" if args.cpu_time else f"{torch.get_num_threads()} threads, time on the wall"
    )
    rate = f"peak of matrix products {peak.flops_per_second / 1e9:.1f} GFLOP/s"
    title = f"A cell of {args.genes:,} genes, {clock_name}; {rate}"
    table = markdown_table(title, ["what", "cells/s", "share of peak", "times filled up", "cosine to float32"], rows)
    print(table)
    results |= {"peak_flops_per_second": peak.flops_per_second, "measured": measured}
    write_results(args.out, results | {"surroundings_after": surroundings()}, [table])
