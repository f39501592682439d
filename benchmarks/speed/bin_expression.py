"""Speed and memory of binning expression, against quantiles taken cell by cell.

    python -m benchmarks speed_bin_expression [--only speed memory]

Synthetic counts with about 2,000 expressed genes per cell. The whole verb, its checks included, takes turns with a loop
over cells as published pipelines have it, ties drawn as there; the best of several runs counts. Beside the time on the
wall stands processor time, summed over threads.
"""

from __future__ import annotations

import functools
import tempfile
import time
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numba
import numpy as np
from anndata import AnnData, read_h5ad
from scipy import sparse

import scfoundry as sf
from benchmarks.command import arguments, parse
from benchmarks.reporting import markdown_table, surroundings, write_results
from benchmarks.speed.memory import in_fresh_process, peak_above_start
from benchmarks.speed.rank_encode import IN_MEMORY, best_of, load_sentence, synthetic, write_file
from scfoundry.data.tokens.bins import bin_values, gene_keys

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

N_GENES, N_EXPRESSED, N_CELLS, N_BINS = 20_000, 2_000, 4_000, 51
LOOP = "numpy, cell by cell"


def binned_cell_by_cell(counts: sparse.csr_matrix, rng: np.random.Generator) -> sparse.csr_matrix:
    """Quantiles of a cell, and for every value one of the bins that suit it at random."""
    probabilities = np.linspace(0, 1, N_BINS - 1)
    bins = np.zeros(counts.nnz, dtype=np.int64)
    for i in range(counts.shape[0]):
        here = slice(counts.indptr[i], counts.indptr[i + 1])
        values = counts.data[here]
        edges = np.quantile(values, probabilities)
        below, up_to = np.digitize(values, edges, right=True), np.digitize(values, edges)
        bins[here] = np.ceil(up_to - rng.random(len(values)) * (up_to - below))
    return sparse.csr_matrix((bins, counts.indices, counts.indptr), shape=counts.shape)


def measure_speed(n_cells: int, repeats: int) -> dict[str, Any]:
    """Time of every way to bin the same cells."""
    adata = synthetic(n_cells, N_GENES, N_EXPRESSED)
    logged = AnnData(adata.X.copy(), var=adata.var)
    logged.X.data = np.log1p(logged.X.data * np.float32(1.37))
    keys = gene_keys(adata.var_names)
    work: dict[str, Callable[[], object]] = {
        LOOP: lambda: binned_cell_by_cell(adata.X, np.random.default_rng(0)),
        "the kernel alone": lambda: bin_values(adata.X, n_bins=N_BINS, ties="mid", keys=keys),
    }
    for ties in ("mid", "random"):
        work[f'sf.pp.bin_expression, ties="{ties}"'] = functools.partial(sf.pp.bin_expression, adata, ties=ties)
    work["sf.pp.bin_expression, log1p-normalised"] = functools.partial(sf.pp.bin_expression, logged)
    return {
        "n_genes": N_GENES,
        "n_cells": n_cells,
        "stored_per_cell": adata.X.nnz / n_cells,
        "seconds": best_of(work, repeats),
    }


def speed_table(result: dict[str, Any], threads: int) -> str:
    """Rates, and how many times that of the loop."""
    loop, n_cells = result["seconds"][LOOP], result["n_cells"]
    rows = [
        (
            name,
            *(
                text
                for clock in ("wall", "cpu")
                for text in (f"{n_cells / s[clock]:,.0f}", f"{loop[clock] / s[clock]:.1f}")
            ),
        )
        for name, s in result["seconds"].items()
    ]
    title = f"{n_cells:,} cells with {result['stored_per_cell']:,.0f} of {N_GENES:,} genes, {threads} threads"
    return markdown_table(title, ["way", "cells/s", "times the loop", "cells per CPU second", "times, CPU"], rows)


def binning_memory(path: Path) -> dict[str, int]:
    """Bytes at the peak of binning a file, resident and allocated by arrays, and those of the result."""
    sf.settings.verbosity = "warning"
    adata = read_h5ad(path, backed="r")
    sf.pp.bin_expression(AnnData(adata.X[:10], var=adata.var))  # compiles
    peak = peak_above_start(functools.partial(sf.pp.bin_expression, adata))
    bins = adata.layers["X_binned"]
    found = {"peak": peak, "result": bins.data.nbytes + bins.indices.nbytes + bins.indptr.nbytes}
    del adata, bins
    adata = read_h5ad(path, backed="r")
    tracemalloc.start()
    sf.pp.bin_expression(adata)
    return found | {"allocated": tracemalloc.get_traced_memory()[1]}


def measure_memory(sizes: Sequence[int]) -> list[dict[str, Any]]:
    """Peak memory over the number of cells in a file, each in a fresh process."""
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for n_cells in sizes:
            path = Path(folder) / f"{n_cells}.h5ad"
            write_file(path, n_cells)
            start = time.perf_counter()
            measured = in_fresh_process(binning_memory, path)
            results.append({"n_cells": n_cells, "seconds": time.perf_counter() - start} | measured)
            path.unlink()
    return results


def memory_table(results: list[dict[str, Any]]) -> str:
    """Peak memory with and without the result itself."""
    rows = [
        (
            f"{r['n_cells']:,}",
            *(f"{n / 2**20:,.0f}" for n in (r["result"], r["allocated"] - r["result"], r["peak"] - r["result"])),
        )
        for r in results
    ]
    n_genes, n_expressed, _ = IN_MEMORY
    title = f"Peak memory, backed .h5ad, {n_genes:,} genes, about {n_expressed} of them expressed per cell"
    return markdown_table(title, ["cells", "result, MiB", "allocated beyond it, MiB", "resident beyond it, MiB"], rows)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    parser = arguments(__doc__, "speed_bin_expression", data=False)
    parser.add_argument("--threads", type=int, default=min(2, numba.config.NUMBA_NUM_THREADS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--n-cells", type=int, default=N_CELLS)
    parser.add_argument("--in-file", type=int, nargs="+", default=[20_000, 100_000, 400_000], help="cells of the files")
    parser.add_argument("--only", nargs="*", choices=("speed", "memory"))
    args = parse(parser, argv)

    sf.settings.verbosity = "warning"
    numba.config.NUMBA_NUM_THREADS = args.threads
    parts = set(args.only or ("speed", "memory"))
    results: dict[str, Any] = {"command": args.command, "surroundings": surroundings("numba"), "threads": args.threads}
    tables: list[str] = []
    if "speed" in parts:
        results["speed"] = measure_speed(args.n_cells, args.repeats)
        tables.append(speed_table(results["speed"], args.threads))
    if "memory" in parts:
        results["memory"] = measure_memory(args.in_file)
        tables.append(memory_table(results["memory"]))
    results["surroundings_after"] = surroundings("numba")
    tables.append(load_sentence(results))
    print("\n".join(tables))
    write_results(args.out, results, tables)
