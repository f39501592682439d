"""Attention with dropout of its weights on a CPU, forward and back, against PyTorch's own.

    python -m benchmarks speed_dropped_attention

Random queries, keys and values of the shapes that training gives them, cells of half to all of the positions. PyTorch
has a fused kernel without dropout, which no attention with it can beat, and with dropout writes all weights out. What
is compared takes turns; the best of several runs counts. Memory is measured in a fresh process each.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.nn import functional as F

from benchmarks.command import arguments, parse
from benchmarks.reporting import markdown_table, surroundings, write_results
from benchmarks.speed.clock import Clock
from benchmarks.speed.memory import in_fresh_process, peak_above_start
from scfoundry.nn.dropped_attention import dropped_attention

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

DROPOUT = 0.1
OURS, PEER, BOUND = "here", "PyTorch, dropout", "PyTorch, no dropout"


class Shape(NamedTuple):
    """Cells, heads, positions and channels of a head."""

    what: str
    n_cells: int
    n_heads: int
    n_positions: int
    n_channels: int


SHAPES = (
    Shape("celler-mini", 32, 4, 1024, 32),
    Shape("Celler, published size", 8, 8, 1200, 64),
    Shape("LangCell, published size", 4, 12, 2048, 64),
    Shape("short cells", 32, 12, 256, 64),
)


def ways(shape: Shape) -> dict[str, Callable[[], object]]:
    """The ways to attend and to take the gradient, on the same numbers."""
    generator = torch.Generator().manual_seed(0)
    size = shape.n_cells, shape.n_heads, shape.n_positions, shape.n_channels
    queries, keys, values, gradient = torch.randn(4, *size, generator=generator)
    inputs = [tensor.requires_grad_() for tensor in (queries, keys, values)]
    lengths = torch.randint(shape.n_positions // 2, shape.n_positions + 1, (shape.n_cells, 1), generator=generator)
    mask = (torch.arange(shape.n_positions) < lengths)[:, None, None]

    def run(attend: Callable[..., Tensor]) -> None:
        torch.autograd.grad(attend(*inputs, mask), inputs, gradient)

    by_torch = F.scaled_dot_product_attention
    return {
        OURS: partial(run, partial(dropped_attention, dropout=DROPOUT)),
        PEER: partial(run, partial(by_torch, dropout_p=DROPOUT)),
        BOUND: partial(run, by_torch),
    }


def memory(shape: Shape, way: str) -> int:
    """Bytes at the peak of one run; to be run in a process of its own."""
    return peak_above_start(ways(shape)[way])


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    parser = arguments(__doc__, "speed_dropped_attention", data=False)
    parser.add_argument("--cpu-time", action="store_true", help="one thread, processor time: for a busy machine")
    parser.add_argument("--repeats", type=int, default=3)
    args = parse(parser, argv)

    clock, measured, rows = Clock(cpu_time=args.cpu_time), [], []
    for shape in SHAPES:
        seconds = clock.best(ways(shape), args.repeats)
        bytes_at_peak = {way: in_fresh_process(memory, shape, way) for way in seconds}
        measured.append(shape._asdict() | {"seconds": seconds, "bytes": bytes_at_peak})
        for way, taken in seconds.items():
            size = f"{shape.n_cells} x {shape.n_heads} x {shape.n_positions:,} x {shape.n_channels}"
            ratios = (f"{seconds[PEER] / taken:.1f}", f"{seconds[BOUND] / taken:.2f}")
            rows.append((shape.what, size, way, f"{taken:.2f}", *ratios, f"{bytes_at_peak[way] / 2**20:,.0f}"))
    how = "one thread, processor time" if args.cpu_time else f"{torch.get_num_threads()} threads, time on the wall"
    columns = ["shape", "cells x heads x positions x channels", "way", "s", f"times {PEER}", f"times {BOUND}", "MiB"]
    table = markdown_table(f"Attention forward and back, float32, {how}", columns, rows)
    print(table)
    results: dict[str, Any] = {"command": args.command, "surroundings": surroundings(), "measured": measured}
    write_results(args.out, results, [table])
