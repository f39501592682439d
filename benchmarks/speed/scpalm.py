"""Speed of scPaLM at published size, and memory of its gene embedding.

    python -m benchmarks speed_scpalm [--cpu-time]

Random weights; synthetic cells with about 2,000 of 20,000 genes. The embedding (the cell token) is measured against the
machine's matrix products; once more with the cell encoder in bfloat16, where its products are the faster ones (codes
are always found in float32). Whatever is compared takes turns; the best of several runs counts. Memory is that of 128
cells over 60,000 genes, forward and backward, in a fresh process (Linux), beside the size of one array of the algorithm
as printed.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy import sparse

from benchmarks.command import arguments, parse
from benchmarks.reporting import markdown_table, surroundings, write_results
from benchmarks.speed.clock import Clock
from benchmarks.speed.memory import in_fresh_process, peak_above_start
from benchmarks.speed.products import Peak
from benchmarks.speed.rank_encode import synthetic
from scfoundry._device import Compute
from scfoundry.data.matrix.cells import Cells
from scfoundry.model import ScPaLM, ScPaLMConfig
from scfoundry.model.scpalm._batch import Expression
from scfoundry.model.scpalm._embedding import PathwayEmbedding

if TYPE_CHECKING:
    from collections.abc import Sequence

PUBLISHED = ScPaLMConfig()
N_GENES, N_EXPRESSED = 20_000, 2_000
# Of the memory.
MANY_GENES, BATCH = 60_000, 128
SHORT = ((4096, 256, 1024),)
SHAPES = (*SHORT, (4096, 256, 256), (4096, 1024, 256), (2048, 2048, 2048))
PRECISIONS = {"float32": "float32", "bfloat16 cell encoder": "bfloat16"}


def flops(n_cells: int, n_stored: int) -> int:
    """Floating point operations of matrix products and of sums over genes; of the last layer, the cell token alone.

    Parameters
    ----------
    n_cells, n_stored
        Cells, and values of all of them that are not 0.
    """
    c = PUBLISHED
    d, f, n = c.n_hidden, c.n_intermediate, c.n_tokens
    tables = N_GENES * (c.n_value * (c.n_value + n) + c.n_gene * n)  # once, for all cells

    def layer(asking: int, answering: int) -> int:
        return 2 * answering * d * d + asking * (2 * d * d + 2 * d * f) + 2 * asking * answering * d

    tokens = c.n_layers * layer(n, n) + n * d * c.n_codes
    cell = (c.n_layers - 1) * layer(n + 1, n + 1) + layer(1, n + 1)
    # A value adds a slope times itself, and a presence term, to every scalar.
    return 2 * (tables + n_cells * (tokens + cell)) + 3 * n_stored * n


def embed(model: ScPaLM, cells: Cells, precision: str) -> None:
    """The embedding of cells, as `sf.tl.embed` asks for it."""
    model.embed(cells, Compute.resolve("cpu", precision))


def random_expression(n_cells: int, n_genes: int) -> Expression:
    """Log expression of random genes, as many in every cell."""
    rng = np.random.default_rng(0)
    genes = np.concatenate([rng.choice(n_genes, N_EXPRESSED, replace=False) for _ in range(n_cells)])
    values = rng.uniform(0.5, 5.5, len(genes)).astype(np.float32)
    log = sparse.csr_matrix((values, genes, np.arange(n_cells + 1) * N_EXPRESSED), shape=(n_cells, n_genes))
    return Expression.of(log, torch.device("cpu"))


def memory_of_embedding(n_genes: int, n_cells: int, backward: bool) -> dict[str, float]:
    """Peak bytes and seconds of the tokens of a batch, beyond the weights."""
    start(2 * N_EXPRESSED)  # libraries are loaded
    embedding, cells = PathwayEmbedding(PUBLISHED, n_genes), random_expression(n_cells, n_genes)

    def work() -> None:
        with torch.set_grad_enabled(backward):
            tokens = embedding(cells)
            if backward:
                tokens.square().mean().backward()

    began = time.perf_counter()
    peak = peak_above_start(work)
    weights = sum(weight.nbytes for weight in embedding.parameters())
    return {"peak": peak, "seconds": time.perf_counter() - began, "weights": weights}


def start(n_genes: int) -> None:
    """A small batch, forward and backward."""
    PathwayEmbedding(PUBLISHED, n_genes)(random_expression(2, n_genes)).sum().backward()


def measure_speed(clock: Clock, n_cells: int, repeats: int) -> dict[str, Any]:
    """Cells per second of every precision, beside the peak of matrix products."""
    adata = synthetic(n_cells, N_GENES, N_EXPRESSED)
    peak, half = Peak(torch.float32, SHAPES), Peak(torch.bfloat16, SHORT)
    model = ScPaLM(genes=adata.var_names.tolist())
    cells = Cells.of(adata, model.genes, caller="benchmark")
    for products in (peak, half):
        products.measure(clock)
    pays = half.flops_per_second > peak.flops_per_second
    seconds = dict.fromkeys(list(PRECISIONS)[: 1 + pays], float("inf"))
    for _ in range(repeats):
        for name in seconds:
            peak.measure(clock)
            seconds[name] = min(seconds[name], clock.once(partial(embed, model, cells, PRECISIONS[name])))
    n_flops = flops(n_cells, adata.X.nnz)
    measured = {
        name: {"cells_per_second": n_cells / taken, "share_of_peak": n_flops / taken / peak.flops_per_second}
        for name, taken in seconds.items()
    }
    facts = {"n_cells": n_cells, "flops_per_cell": n_flops / n_cells, "peak_flops_per_second": peak.flops_per_second}
    facts["peak_bfloat16"] = half.flops_per_second
    return facts | {"measured": measured}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    parser = arguments(__doc__, "speed_scpalm", data=False)
    parser.add_argument("--cpu-time", action="store_true", help="one thread, processor time: for a busy machine")
    parser.add_argument("--n-cells", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    args = parse(parser, argv)

    results: dict[str, Any] = {"command": args.command, "surroundings": surroundings()}
    # First: processes of their own start without the memory of the rest.
    ways = {"forward": False, "forward and backward": True}
    memory = {way: in_fresh_process(memory_of_embedding, MANY_GENES, BATCH, backward) for way, backward in ways.items()}
    literal = BATCH * MANY_GENES * PUBLISHED.n_tokens * 4
    clock = Clock(cpu_time=args.cpu_time)
    speed = measure_speed(clock, args.n_cells, args.repeats)
    threads = "one thread, processor time" if args.cpu_time else f"{torch.get_num_threads()} threads, time on the wall"
    rows = [(name, *(f"{value:.2f}" for value in found.values())) for name, found in speed["measured"].items()]
    title = (
        f"{args.n_cells} cells with about {N_EXPRESSED:,} of {N_GENES:,} genes, {threads}; "
        f"{speed['flops_per_cell'] / 1e9:.1f} GFLOP per cell, peak of matrix products in float32 "
        f"{speed['peak_flops_per_second'] / 1e9:.1f} GFLOP/s, in bfloat16 {speed['peak_bfloat16'] / 1e9:.1f}"
    )
    tables = [markdown_table(title, ["embedding", "cells/s", "share of peak"], rows)]
    rows = [(way, *(f"{found[what] / 2**20:,.0f}" for what in ("peak", "weights"))) for way, found in memory.items()]
    array = f"one array of {BATCH} x {MANY_GENES:,} x {PUBLISHED.n_tokens}, computed"
    rows.append((array, f"{literal / 2**20:,.0f}", ""))
    title = f"Peak memory of the gene embedding, {BATCH} cells, {MANY_GENES:,} genes, beyond the weights"
    tables.append(markdown_table(title, ["", "MiB", "weights, MiB"], rows))
    print("\n".join(tables))
    results |= {"clock": "cpu" if args.cpu_time else "wall", "speed": speed, "memory": memory, "literal_bytes": literal}
    write_results(args.out, results | {"surroundings_after": surroundings()}, tables)
