"""Speed and memory of rank encoding, against an argsort per cell.

    python -m benchmarks speed_rank_encode [--only speed memory]

Synthetic counts of two sizes. All ways of ranking take turns within one run, and the best of several runs counts; the
ranks of all are compared. Beside the time on the wall stands processor time, summed over threads, which other people's
work on the machine does not change much.
"""

from __future__ import annotations

import functools
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numba
import numpy as np
import pandas as pd
from anndata import AnnData, read_h5ad
from anndata.io import sparse_dataset, write_elem
from scipy import sparse

import scfoundry as sf
from benchmarks.command import arguments, parse
from benchmarks.reporting import markdown_table, surroundings, write_results
from benchmarks.speed.memory import in_fresh_process, peak_above_start
from scfoundry.data.genes import GeneVocabulary
from scfoundry.data.tokens import ranks as tokens

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

VOCABULARY = 25_424
MAX_LENGTH = 2048
SIZES = ((4_000, 370, 20_000), (20_000, 2_000, 4_000))
"""Genes, expressed genes per cell, cells."""

TOKENIZER_CHUNK = 512
OURS = "radix sort"
LOOP = "argsort per cell"
IN_MEMORY = (20_000, 370, (100_000, 1_000_000))
"""Genes, expressed genes per cell, numbers of cells in a file."""


@functools.cache
def vocabulary() -> GeneVocabulary:
    """As many genes as the published vocabulary has, medians spread as there."""
    medians = np.random.default_rng(0).lognormal(1, 0.6, VOCABULARY)
    return GeneVocabulary([f"ENSG{i:011d}" for i in range(VOCABULARY)], medians=medians)


def synthetic(n_cells: int, n_genes: int, n_expressed: int, seed: int = 0) -> AnnData:
    """Counts whose columns are genes of the vocabulary in no order."""
    rng = np.random.default_rng(seed)
    per_cell = rng.normal(n_expressed, n_expressed / 5, n_cells).astype(int).clip(1, n_genes)
    indices = np.concatenate([np.sort(rng.choice(n_genes, n, replace=False)) for n in per_cell]).astype(np.int32)
    level = rng.lognormal(0, 1.5, n_genes)
    counts = 1 + rng.poisson(rng.gamma(0.3, 3, len(indices)) * level[indices] / level.mean())
    matrix = sparse.csr_matrix(
        (counts.astype(np.float32), indices, np.concatenate([[0], np.cumsum(per_cell)])), shape=(n_cells, n_genes)
    )
    ids = rng.choice(vocabulary().ids, n_genes, replace=False)
    return AnnData(matrix, var=pd.DataFrame(index=ids))


def argsort_per_cell(
    counts: sparse.csr_matrix, token_of_column: NDArray[np.int64], medians: NDArray[np.float64]
) -> list[NDArray[np.int64]]:
    """Rank as tokenizers do: scale a few hundred cells, then slice out and sort one cell after the other."""
    ranked = []
    for start in range(0, counts.shape[0], TOKENIZER_CHUNK):
        block = counts[start : start + TOKENIZER_CHUNK]
        scaled = sparse.csr_matrix(block.multiply(1e4 / block.sum(axis=1)).multiply(1 / medians))
        for i in range(scaled.shape[0]):
            cell = scaled[i]
            ranked.append(token_of_column[cell.indices][np.argsort(-cell.data)][:MAX_LENGTH])
    return ranked


def share_of_equal_ranks(loop: list[NDArray[np.int64]], ids: NDArray[np.int32]) -> float:
    """Share of ranks at which the loop has the same gene; where ratios tie it has no fixed order."""
    return float((np.concatenate(loop) == ids).mean())


def best_of(work: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, dict[str, float]]:
    """Least seconds on the wall and of the processors; all pieces of work take turns."""
    best = {name: {"wall": float("inf"), "cpu": float("inf")} for name in work}
    for turn in range(repeats + 1):
        for name, run in work.items():
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            taken = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
            if turn:  # the first one compiles
                best[name] = {kind: min(best[name][kind], seconds) for kind, seconds in taken.items()}
    return best


def measure_speed(n_genes: int, n_expressed: int, n_cells: int, repeats: int) -> dict[str, Any]:
    """Time of every way to rank the same cells."""
    adata = synthetic(n_cells, n_genes, n_expressed)
    genes, counts = vocabulary(), adata.X
    position = genes.index_of(adata.var_names)
    rank = functools.partial(
        tokens.rank_tokens, counts, genes.medians, max_length=MAX_LENGTH, gene_of_column=position.astype(np.int32)
    )

    def loop() -> list[NDArray[np.int64]]:
        return argsort_per_cell(counts, position + tokens.FIRST_GENE, genes.medians[position])

    # Every tenth column is of the gene of its neighbour, as old names and aliases are.
    repeated = position.copy()
    repeated[1::10] = repeated[::10][: len(repeated[1::10])]
    shared = AnnData(counts, var=pd.DataFrame(index=[f"{genes.ids[p]}.{i}" for i, p in enumerate(repeated)]))

    work = {
        LOOP: loop,
        OURS: rank,
        "sf.pp.rank_encode": functools.partial(sf.pp.rank_encode, adata, genes=genes),
        "sf.pp.rank_encode, columns share genes": functools.partial(sf.pp.rank_encode, shared, genes=genes),
    }
    return {
        "n_genes": n_genes,
        "n_cells": n_cells,
        "stored_per_cell": counts.nnz / n_cells,
        "equal_ranks": share_of_equal_ranks(loop(), rank()[1]),
        "seconds": best_of(work, repeats),
    }


def speed_table(result: dict[str, Any]) -> str:
    """Rates, and how many times that of the loop."""
    loop = result["seconds"][LOOP]
    rows = [
        (
            name,
            f"{result['n_cells'] / seconds['wall']:,.0f}",
            f"{loop['wall'] / seconds['wall']:.1f}",
            f"{result['n_cells'] / seconds['cpu']:,.0f}",
            f"{loop['cpu'] / seconds['cpu']:.1f}",
        )
        for name, seconds in result["seconds"].items()
    ]
    title = (
        f"{result['n_genes']:,} genes, {result['stored_per_cell']:,.0f} of them expressed per cell; "
        f"{result['n_cells']:,} cells, {numba.get_num_threads()} threads"
    )
    columns = ["way", "cells/s", f"times {LOOP}", "cells per CPU second", f"times {LOOP}, CPU"]
    return markdown_table(title, columns, rows)


def write_file(path: Path, n_cells: int) -> None:
    """Write a file of cells, a few thousand of them repeated."""
    n_genes, n_expressed, _ = IN_MEMORY
    tile = synthetic(20_000, n_genes, n_expressed)
    nothing = sparse.csr_matrix((n_cells, n_genes), dtype=np.float32)
    AnnData(nothing, pd.DataFrame(index=pd.RangeIndex(n_cells).astype(str)), tile.var).write_h5ad(path)
    with h5py.File(path, "r+") as file:
        del file["X"]
        write_elem(file, "X", tile.X)
        on_disk = sparse_dataset(file["X"])
        for _ in range(n_cells // tile.n_obs - 1):
            on_disk.append(tile.X)


def encoding_memory(path: Path) -> dict[str, int]:
    """Bytes at the peak of encoding a file, and those of the result."""
    sf.settings.verbosity = "warning"
    adata, genes = read_h5ad(path, backed="r"), vocabulary()
    warm = AnnData(adata.X[:10], var=adata.var)
    sf.pp.rank_encode(warm, genes=genes)
    peak = peak_above_start(functools.partial(sf.pp.rank_encode, adata, genes=genes))
    ranks = adata.obsm["X_rank"]
    return {"peak": peak, "result": ranks.data.nbytes + ranks.indices.nbytes + ranks.indptr.nbytes}


def medians_memory(path: Path) -> dict[str, int]:
    """Bytes at the peak of taking medians over a file."""
    sf.settings.verbosity = "warning"
    adata = read_h5ad(path, backed="r")
    return {"peak": peak_above_start(functools.partial(sf.pp.gene_medians, adata)), "result": 0}


def measure_memory() -> list[dict[str, Any]]:
    """Peak memory over the number of cells, each in a fresh process."""
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for n_cells in IN_MEMORY[2]:
            path = Path(folder) / f"{n_cells}.h5ad"
            write_file(path, n_cells)
            for name, work in (("sf.pp.rank_encode", encoding_memory), ("sf.pp.gene_medians", medians_memory)):
                start = time.perf_counter()
                measured = in_fresh_process(work, path)
                results.append({"name": name, "n_cells": n_cells, "seconds": time.perf_counter() - start} | measured)
            path.unlink()
    return results


def memory_table(results: list[dict[str, Any]]) -> str:
    """Peak memory with and without the result itself."""
    rows = [
        (r["name"], f"{r['n_cells']:,}", *(f"{n / 2**20:,.0f}" for n in (r["result"], r["peak"] - r["result"])))
        for r in sorted(results, key=lambda r: r["name"])
    ]
    n_genes, n_expressed, _ = IN_MEMORY
    title = f"Peak memory, backed .h5ad, {n_genes:,} genes, about {n_expressed} of them expressed per cell"
    return markdown_table(title, ["function", "cells", "result, MiB", "beyond the result, MiB"], rows)


def load_sentence(results: dict[str, Any]) -> str:
    """How busy the machine was: where others use it, processor time is the better measure."""
    before, after = (results[when]["load"][0] for when in ("surroundings", "surroundings_after"))
    return f"Load average of the {results['surroundings']['cores']} cores: {before} before, {after} after.\n"


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    parser = arguments(__doc__, "speed_rank_encode", data=False)
    parser.add_argument("--threads", type=int, default=min(2, numba.config.NUMBA_NUM_THREADS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", nargs="*", choices=("speed", "memory"))
    args = parse(parser, argv)

    sf.settings.verbosity = "warning"
    numba.set_num_threads(args.threads)
    parts = set(args.only or ("speed", "memory"))
    results: dict[str, Any] = {"command": args.command, "surroundings": surroundings("numba"), "threads": args.threads}
    tables: list[str] = []

    def report(table: str) -> None:
        print(table, flush=True)
        tables.append(table)

    if "speed" in parts:
        results["speed"] = []
        for size in SIZES:
            results["speed"].append(measure_speed(*size, args.repeats))
            report(speed_table(results["speed"][-1]))
    if "memory" in parts:
        results["memory"] = measure_memory()
        report(memory_table(results["memory"]))
    results["surroundings_after"] = surroundings("numba")
    report(load_sentence(results))
    write_results(args.out, results, tables)
