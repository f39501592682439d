"""Whole verbs in one process and on the workers of a dask cluster: exactness, processor time, memory.

    python -m benchmarks distribute [--n-cells 1000000] [--workers 2] [--verbs ...]

Synthetic counts in a zarr store, 4,000 genes of which a cell expresses about 370. One process with one thread, then
worker processes with one thread each, which begin without weights; and once more in the same processes, on data opened
anew. Seconds are of processor time, so that other work on the machine does not count: those of the worker that took
longest, and of the process that asked. Memory is at the peak.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

import scfoundry as sf
from benchmarks.command import arguments, parse
from benchmarks.reporting import markdown_table, surroundings, write_results
from benchmarks.speed.memory import in_fresh_process, status_bytes
from benchmarks.speed.scaling import VERBS, opened, written

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData
    from numpy.typing import NDArray

DEFAULT_VERBS = ("embed, cellplm-mini", "embed, cellplm-mini, components", "embed, cellnamer-mini", "rank_encode")
# Dask lets workers hand every freed block back to the system, which doubles the time of work on large arrays.
KEEP_MEMORY = {f"distributed.nanny.pre-spawn-environ.MALLOC_{name}_THRESHOLD_": 2**30 for name in ("TRIM", "MMAP")}

Row = dict[str, Any]


def used() -> tuple[float, int]:
    """Processor seconds of this process so far, and bytes at its peak."""
    return time.process_time(), status_bytes("VmHWM")


def result(adata: AnnData) -> NDArray[np.float64]:
    """What a verb wrote, of up to 20,000 cells spread over all."""
    (value,) = adata.obsm.values()
    some = value[:: max(1, adata.n_obs // 20_000)]
    return np.asarray(some.toarray() if sparse.issparse(some) else some, dtype=np.float64)


def alone(verb: str, path: Path) -> Row:
    """A verb in this process, twice."""
    sf.settings.verbosity = "error"
    adata = opened(path, "zarr")
    before, wall = time.process_time(), time.perf_counter()
    VERBS[verb](adata)
    wall = time.perf_counter() - wall
    after, peak = used()
    found = {"seconds": after - before, "wall": wall, "peak": peak, "values": result(adata)}
    adata = opened(path, "zarr")
    before = time.process_time()
    VERBS[verb](adata)
    return found | {"again": time.process_time() - before}


def together(verb: str, path: Path, n_workers: int) -> Row:
    """A verb by workers that have done nothing before, twice."""
    import dask
    from distributed import Client, LocalCluster

    sf.settings.verbosity = "error"
    adata = opened(path, "zarr")
    how = {"n_workers": n_workers, "threads_per_worker": 1, "dashboard_address": None}
    with dask.config.set(KEEP_MEMORY), LocalCluster(**how) as cluster, Client(cluster) as client:
        before, workers_before, wall = time.process_time(), client.run(used), time.perf_counter()
        VERBS[verb](adata, distribute=True)
        wall, seconds, workers = time.perf_counter() - wall, time.process_time() - before, client.run(used)
        found = {"seconds": longest(workers_before, workers), "wall": wall, "asking": seconds, "values": result(adata)}
        found["peak"] = max(peak for _, peak in workers.values())
        adata = opened(path, "zarr")
        workers_before = client.run(used)
        VERBS[verb](adata, distribute=True)
        return found | {"again": longest(workers_before, client.run(used))}


def longest(before: Mapping[str, tuple[float, int]], after: Mapping[str, tuple[float, int]]) -> float:
    """Processor seconds of the worker that took longest."""
    return max(after[name][0] - before[name][0] for name in after)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    parser = arguments(__doc__, "distribute", data=False)
    parser.add_argument("--n-cells", type=int, nargs="+", default=[200_000])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--verbs", nargs="+", default=list(DEFAULT_VERBS), choices=VERBS, metavar="VERB")
    args = parse(parser, argv)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for n_cells in args.n_cells:
            path = written(Path(folder), n_cells, "zarr")
            for verb in args.verbs:
                one, many = in_fresh_process(alone, verb, path), together(verb, path, args.workers)
                rows.append(
                    {
                        "n_cells": n_cells,
                        "verb": verb,
                        "difference": float(np.abs(one.pop("values") - many.pop("values")).max()),
                        "one process": one,
                        "workers": many,
                    }
                )
                print(rows[-1], flush=True)
    body = [
        (
            f"{row['n_cells']:,}",
            row["verb"],
            f"{row['difference']:.1g}",
            f"{row['one process']['seconds']:.1f}",
            f"{row['workers']['seconds']:.1f}",
            f"{row['workers']['seconds'] / row['one process']['seconds']:.2f}",
            f"{row['workers']['again'] / row['one process']['again']:.2f}",
            f"{row['workers']['asking']:.1f}",
            *(f"{row[who]['peak'] / 2**20:,.0f}" for who in ("one process", "workers")),
        )
        for row in rows
    ]
    columns = [
        "cells",
        "verb",
        "largest difference",
        "one process, CPU s",
        "longest worker, CPU s",
        "ratio",
        "second call",
    ]
    columns += ["the process that asked, CPU s", "one process, MiB", "worker, MiB"]
    text = [f"# Work by a cluster\n\n`{args.command}`\n", markdown_table(f"{args.workers} workers", columns, body)]
    results = {"command": args.command, "surroundings": surroundings("numba", "dask", "distributed"), "rows": rows}
    write_results(args.out, results, text)
    print("\n".join(text))
