"""Divide and conquer: memory and time of a contrastive step over batch sizes, at a fixed mini-batch.

    python -m benchmarks speed_divide_and_conquer [--cpu-time]

A CellLM (FAVOR+, dropout 0.1) with random weights takes the gradient of the contrast of two views. Memory is
the peak above what is resident before the step (Linux with glibc). Time is that of the same step by the same parts,
with divide and conquer and with everything in memory, which take turns. A memory model, checked against the measured
peaks, says how long cells of the published structure may be under a cap.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.command import arguments, parse
from benchmarks.reporting import markdown_table, surroundings, write_results
from benchmarks.speed.clock import Clock
from benchmarks.speed.contrast_memory import N_VIEWS, MemoryModel, draw
from benchmarks.speed.memory import peak_above_start
from scfoundry.model.celllm._config import CellLMConfig
from scfoundry.model.celllm._module import CellLMModule
from scfoundry.model.celllm._tokens import CLS, CellBatch
from scfoundry.nn.contrastive import two_view_loss
from scfoundry.nn.divide_and_conquer import encode_in_parts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

N_GENES, PART = 2_000, 16
# Genes per cell, and structure. What is kept for gradients grows with the width, work with its square: memory is that
# of many cells in a narrow model, time that of a wide one, which like the published one multiplies matrices mostly.
NARROW = (
    512,
    CellLMConfig(n_hidden=32, n_heads=2, n_head=16, n_intermediate=128, n_features=44, n_layers=2, n_contrast=32),
)
WIDE = 128, CellLMConfig(n_hidden=256, n_heads=8, n_head=32, n_intermediate=1024, n_features=110, n_layers=2)
PUBLISHED = CellLMConfig()
CAPS = {"24 GB": 24e9, "80 GB": 80e9}
M_MMAP_THRESHOLD = -3  # of malloc.h
WAYS = ("divide and conquer", "end to end")
BATCHES, COMPARED = (16, 64, 256, 1024, 4096), (16, 64)


def cells_of(n_cells: int, n_expressed: int) -> tuple[torch.Tensor, ...]:
    """Random cells of the same number of genes, as a batch has them."""
    genes = torch.stack([torch.randperm(N_GENES)[:n_expressed] for _ in range(n_cells)])
    genes = torch.cat([torch.full((n_cells, 1), N_GENES), genes], 1)
    levels = torch.randint(CLS, genes.shape).index_fill_(1, torch.tensor([0]), CLS)
    return torch.arange(n_cells), levels, genes, torch.ones_like(genes, dtype=torch.bool), torch.ones(genes.shape)


def step_of(n_cells: int, way: str, size: tuple[int, CellLMConfig]) -> Callable[[], None]:
    """One step on random cells of the same number of genes."""
    n_expressed, config = size
    torch.manual_seed(0)
    module = CellLMModule(config, N_GENES).train()
    parts = [CellBatch(*part) for part in zip(*(x.split(PART) for x in cells_of(n_cells, n_expressed)), strict=True)]

    def encode(cells: CellBatch) -> tuple[torch.Tensor]:
        return (module.contrast(module(cells), cells),)

    def step() -> None:
        module.zero_grad()
        if way == WAYS[0]:
            (h,) = encode_in_parts(encode, parts * 2, module.parameters())
        else:
            h = torch.cat([encode(part)[0] for part in parts * 2])
        two_view_loss(*h.chunk(2), config.temperature).backward()

    return step


def peak_bytes(n_cells: int, way: str) -> int:
    """Peak of a step, beyond cells and weights."""
    return peak_above_start(step_of(n_cells, way, NARROW))


def memory_model(config: CellLMConfig, lengths: tuple[int, int] = (250, 500)) -> MemoryModel:
    """Of a model of this structure."""
    torch.manual_seed(0)
    module = CellLMModule(config, N_GENES).train()

    def encode(n: int) -> torch.Tensor:
        cells = CellBatch(*cells_of(1, n))
        return module.contrast(module(cells), cells)

    return MemoryModel.of(module, encode, lengths)


def map_from(n_bytes: int) -> None:
    """Have tensors of this size or more leave the process when they are freed, instead of being kept for later."""
    ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, n_bytes)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    parser = arguments(__doc__, "speed_divide_and_conquer", data=False)
    parser.add_argument("--cpu-time", action="store_true", help="one thread, processor time: for a busy machine")
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES)
    parser.add_argument("--compared", type=int, nargs="+", default=COMPARED, help="sizes that fit into memory at once")
    parser.add_argument("--repeats", type=int, default=3)
    args = parse(parser, argv)
    results: dict[str, Any] = {"command": args.command, "surroundings": surroundings()}

    map_from(1 << 16)
    peak_bytes(1, WAYS[0])  # what torch loads at first use
    sizes = dict(zip(WAYS, (args.batches, args.compared), strict=True))
    memory = {way: {n: peak_bytes(n, way) for n in sizes[way]} for way in WAYS}
    map_from(1 << 25)
    clock = Clock(cpu_time=args.cpu_time)
    seconds = {n: clock.best({way: step_of(n, way, WIDE) for way in WAYS}, args.repeats) for n in args.compared}
    rows = []
    for n in args.batches:
        row = [f"{n:,}", *(f"{memory[way][n] / 1e6:,.0f}" if n in memory[way] else "" for way in WAYS)]
        per_cell = [f"{seconds[n][way] / n * 1e3:.1f}" if n in seconds else "" for way in WAYS]
        rows.append([*row, *per_cell, f"{seconds[n][WAYS[0]] / seconds[n][WAYS[1]]:.2f}" if n in seconds else ""])
    title = (
        f"A step of contrastive learning in mini-batches of {PART} cells: memory (narrow model), time (wide model), "
        f"{'one thread, processor time' if args.cpu_time else 'time on the wall'}"
    )
    narrow = memory_model(NARROW[1])
    for row, n in zip(rows, args.batches, strict=True):
        whole = n * N_VIEWS if n in args.compared else None
        row.insert(3, "" if whole is None else f"{narrow.activations(whole, NARROW[0]) / 1e6:,.0f}")
    columns = [
        "batch",
        *(f"MB, {way}" for way in WAYS),
        "MB, model of end to end",
        *(f"ms per cell, {way}" for way in WAYS),
        "ratio",
    ]
    table = markdown_table(title, columns, rows)
    print(table)
    flat = [memory[WAYS[0]][n] for n in args.batches]
    results |= {"peak_bytes": memory, "seconds": seconds, "largest_to_smallest_memory": max(flat) / min(flat)}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    published = memory_model(PUBLISHED)
    results["longest"] = draw(published, PART, CAPS, args.out.with_suffix(".png"))
    results["published_memory"] = published._asdict()
    write_results(args.out, results | {"surroundings_after": surroundings()}, [table])
