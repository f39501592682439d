"""Speed and memory of CellPLM's embedding at published size, as ratios within one run.

    python -m benchmarks speed_cellplm [--counts pbmc.h5ad] [--cpu-time]

Measures the machine's matrix products, the model against them in both precisions and several chunk sizes, the sparse
input layer against dense ones, linear against quadratic attention, and peak memory over the number of cells. Whatever
is compared takes turns, and the best of several runs counts. On a machine that others use, ``--cpu-time`` runs one
thread and counts its processor time.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.command import arguments, parse
from benchmarks.reporting import markdown_table, surroundings, write_results
from benchmarks.speed.attention import attention_memory, time_attention
from benchmarks.speed.clock import Clock
from benchmarks.speed.input_layer import time_input_layer
from benchmarks.speed.memory import embedding_memory, in_fresh_process
from benchmarks.speed.products import Peak
from benchmarks.speed.published import aligned_counts, chunks_of, flops, published_model
from scfoundry._device import DEFAULT_CHUNK, Compute, Precision
from scfoundry.model.cellplm._streaming import stream_embeddings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scipy.sparse import csr_matrix

    from scfoundry.model.cellplm._module import CellPLMModule

CPU = torch.device("cpu")
CHUNKS = (256, 512, 1024, 2048, 4096)
INPUT_CHUNKS = (512, 1024, 2048)
CONTEXTS = (1024, 2048, 4096, 8192)
N_CELLS_IN_MEMORY = (10_240, 30_720, 102_400)
PRECISIONS: dict[Precision, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def embed(module: CellPLMModule, counts: csr_matrix, chunk: int, precision: Precision) -> None:
    """Embed one context and drop the result."""
    with Compute(CPU, precision).autocast():
        for _ in stream_embeddings(module, chunks_of(counts, chunk), counts.shape[0], device=CPU):
            pass


def measure_model(module: CellPLMModule, counts: csr_matrix, clock: Clock, repeats: int) -> dict[str, Any]:
    """Embed at every chunk size and precision in turn, the peak of matrix products measured in between."""
    n_cells = counts.shape[0]
    work = flops(module.config, n_cells, counts.nnz)
    peaks = {precision: Peak(dtype) for precision, dtype in PRECISIONS.items()}
    seconds = {precision: dict.fromkeys(CHUNKS, float("inf")) for precision in PRECISIONS}
    for _ in range(repeats):
        for chunk in CHUNKS:
            for precision, peak in peaks.items():
                peak.measure(clock)
                taken = clock.once(embed, module, counts, chunk, precision)
                seconds[precision][chunk] = min(taken, seconds[precision][chunk])
    return {
        "flop_per_cell": work / n_cells,
        "peak_flops_per_second": {precision: peak.flops_per_second for precision, peak in peaks.items()},
        "cells_per_second": {p: {c: n_cells / s for c, s in by_chunk.items()} for p, by_chunk in seconds.items()},
        "flops_per_second": {p: {c: work / s for c, s in by_chunk.items()} for p, by_chunk in seconds.items()},
    }


def model_table(result: dict[str, Any]) -> str:
    """Rates per chunk size, each precision against its own peak, bfloat16 against float32."""
    peak = result["peak_flops_per_second"]
    rows = []
    for chunk in CHUNKS:
        cells = {p: result["cells_per_second"][p][chunk] for p in PRECISIONS}
        rate = {p: result["flops_per_second"][p][chunk] for p in PRECISIONS}
        name = f"**{chunk}** (default)" if chunk == DEFAULT_CHUNK["cpu"] else chunk
        row = [name]
        row += [f"{cells['float32']:,.0f}", f"{rate['float32'] / 1e9:.1f}", f"{rate['float32'] / peak['float32']:.2f}"]
        row += [f"{cells['bfloat16']:,.0f}", f"{rate['bfloat16'] / 1e9:.1f}"]
        row += [f"{rate['bfloat16'] / peak['bfloat16']:.2f}", f"{cells['bfloat16'] / cells['float32']:.2f}"]
        rows.append(row)
    columns = ["cells per chunk"]
    columns += [f"{p} {unit}" for p in PRECISIONS for unit in ("cells/s", "GFLOP/s", "share of peak")]
    title = (
        f"Embedding, {result['n_cells']:,} cells x {result['n_genes']:,} genes; peak of matrix products "
        f"{peak['float32'] / 1e9:.1f} GFLOP/s in float32, {peak['bfloat16'] / 1e9:.1f} in bfloat16"
    )
    return markdown_table(title, [*columns, "bfloat16 / float32"], rows)


def input_table(seconds: dict[int, dict[str, float]]) -> str:
    """Times of the input layers, relative to ours."""
    rows = [
        (chunk, way, f"{1e3 * taken:.1f}", f"{taken / by_way['embedding_bag']:.1f}")
        for chunk, by_way in seconds.items()
        for way, taken in by_way.items()
    ]
    return markdown_table("Input layer", ["cells", "way", "ms", "times embedding_bag"], rows)


def measure_attention(clock: Clock, repeats: int) -> list[dict[str, Any]]:
    """Time and memory of both attentions over the size of the context."""
    results = []
    for n_cells in CONTEXTS:
        memory = {kind: in_fresh_process(attention_memory, kind, n_cells) for kind in ("linear", "quadratic")}
        results.append({"n_cells": n_cells, "bytes": memory} | time_attention(n_cells, clock, repeats))
    return results


def attention_table(results: list[dict[str, Any]]) -> str:
    """Both attentions side by side."""
    rows = [
        (
            f"{r['n_cells']:,}",
            f"{1e3 * r['seconds']['linear']:.0f}",
            f"{1e3 * r['seconds']['quadratic']:.0f}",
            f"{r['seconds']['quadratic'] / r['seconds']['linear']:.1f}",
            f"{r['bytes']['linear'] / 2**20:.0f}",
            f"{r['bytes']['quadratic'] / 2**20:.0f}",
            f"{r['largest_relative_difference']:.0e}",
        )
        for r in results
    ]
    columns = ["cells", "linear ms", "quadratic ms", "ratio", "linear MiB", "quadratic MiB", "largest difference"]
    return markdown_table("One attention layer, width 1024, 8 heads", columns, rows)


def measure_memory(chunk: int) -> list[dict[str, Any]]:
    """Peak memory with states in a file at once, and with the default budget for states in memory."""
    return [
        {"n_cells": n, "states": name, "bytes": in_fresh_process(embedding_memory, n, chunk, max_resident)}
        for name, max_resident in (("in a file", 0), ("default", None))
        for n in N_CELLS_IN_MEMORY
    ]


def memory_table(results: list[dict[str, Any]], chunk: int) -> str:
    """Peak memory over the number of cells."""
    rows = [(r["states"], f"{r['n_cells']:,}", f"{r['bytes'] / 2**20:.0f}") for r in results]
    title = f"Peak memory beyond the model, {chunk} cells per chunk"
    return markdown_table(title, ["states between layers", "cells", "MiB"], rows)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    parser = arguments(__doc__, "speed_cellplm", data=False)
    parser.add_argument("--counts", type=Path, help=".h5ad file with raw counts instead of synthetic ones")
    parser.add_argument("--cpu-time", action="store_true", help="one thread, processor time: for a busy machine")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="*", choices=("model", "input", "attention", "memory"))
    args = parse(parser, argv)

    parts = set(args.only or ("model", "input", "attention", "memory"))
    clock = Clock(cpu_time=args.cpu_time)
    results: dict[str, Any] = {
        "command": args.command,
        "surroundings": surroundings(),
        "clock": "cpu" if args.cpu_time else "wall",
    }
    tables: list[str] = []

    def report(table: str) -> None:
        print(table, flush=True)
        tables.append(table)

    chunk = DEFAULT_CHUNK["cpu"]
    if parts & {"model", "input"}:
        module = published_model().module
        counts, measured = aligned_counts(path=args.counts)
        with torch.no_grad():
            if "model" in parts:
                size = {
                    "n_cells": counts.shape[0],
                    "n_genes": len(measured),
                    "stored_per_cell": counts.nnz / counts.shape[0],
                }
                results["model"] = size | measure_model(module, counts, clock, args.repeats)
                report(model_table(results["model"]))
            if "input" in parts:
                results["input_layer"] = {
                    size: time_input_layer(module.embedder, counts, measured, clock, chunk=size, repeats=args.repeats)
                    for size in INPUT_CHUNKS
                }
                report(input_table(results["input_layer"]))
    if "attention" in parts:
        results["attention"] = measure_attention(clock, args.repeats)
        report(attention_table(results["attention"]))
    if "memory" in parts:
        results["memory"] = measure_memory(chunk)
        report(memory_table(results["memory"], chunk))
    results["surroundings_after"] = surroundings()
    write_results(args.out, results, tables)
