"""Time and memory of whole verbs over the number of cells, and over where they lie.

    python -m benchmarks scaling [--verbs ...] [--sizes 10000 100000 400000] [--sources h5ad zarr]

Synthetic counts, 4,000 genes of which a cell expresses about 370. Each measurement is made in a process of its own with
one thread, after a call on 300 cells has loaded weights and compiled: processor time, and peak memory beyond what was
resident before. The exponent is that of time between the smallest and the largest number of cells.
"""

from __future__ import annotations

import functools
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pandas as pd
import zarr
from anndata import AnnData, read_h5ad
from anndata.experimental import read_lazy
from anndata.io import sparse_dataset, write_elem
from scipy import sparse

import scfoundry as sf
from benchmarks.command import arguments, kept, parse
from benchmarks.reporting import markdown_table, surroundings, write_results
from benchmarks.speed.memory import in_fresh_process, peak_above_start
from benchmarks.speed.rank_encode import synthetic

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["VERBS", "WARM_CELLS", "opened", "with_columns", "written"]

LABELS = ["B cell", "T cell", "NK cell", "monocyte", "fibroblast", "hepatocyte", "neuron", "endothelial cell"]
WARM_CELLS = 300
N_GENES, N_EXPRESSED, TILE = 4_000, 370, 20_000
# Places and labels that the verbs ask for; every spot has about as many neighbours, every sample as many cells.
CELLS_PER_SAMPLE = 5_000

Row = dict[str, Any]


def with_columns(adata: AnnData) -> AnnData:
    """Give cells what some verbs read beside counts."""
    adata.obs["sample"] = (np.arange(adata.n_obs) // CELLS_PER_SAMPLE).astype(str)
    adata.obs["cell_type"] = np.array(LABELS)[np.arange(adata.n_obs) % len(LABELS)]
    return adata


def few(adata: AnnData) -> AnnData:
    """Cells to learn from: their number does not grow."""
    return with_columns(adata[:2_000].to_memory())


def annotate(adata: AnnData, model: str, **how: Any) -> None:
    """Learn labels from 2,000 cells, and predict those of all."""
    sf.tl.annotate(adata, few(adata), labels_key="cell_type", model=model, **how)


def retrieve(adata: AnnData, **how: Any) -> None:
    """The cells nearest to a text."""
    sf.tl.retrieve(adata, "a cell that presents antigen", **how)


def attention(adata: AnnData, **how: Any) -> None:
    """Attention between types, in contexts of the same size."""
    sf.tl.cell_attention(adata, "cell_type", batch_key="sample", **how)


VERBS: dict[str, Callable[..., Any]] = {
    "embed, cellplm-mini, components": partial(sf.tl.embed, model="cellplm"),
    "embed, cellplm-mini": partial(sf.tl.embed, model="cellplm", adapt=None),
    "embed, cellnamer-mini": partial(sf.tl.embed, model="cellnamer", adapt=None),
    "embed, scpalm-mini": partial(sf.tl.embed, model="scpalm", adapt=None),
    "embed, langcell-mini": partial(sf.tl.embed, model="langcell", adapt=None),
    "embed, celler-mini": partial(sf.tl.embed, model="celler", adapt=None),
    "embed, celllm-mini": partial(sf.tl.embed, model="celllm", adapt=None),
    "zero_shot_annotate": partial(sf.tl.zero_shot_annotate, texts=LABELS),
    "annotate, cellplm-mini": partial(annotate, model="cellplm"),
    "denoise, ten genes": lambda adata, **how: sf.tl.denoise(
        adata, "cellplm", fine_tune=False, batch_key="sample", genes=adata.var_names[:10].tolist(), **how
    ),
    "retrieve": retrieve,
    "cell_attention": attention,
    "rank_encode": sf.pp.rank_encode,
    "bin_expression": sf.pp.bin_expression,
}


def tile(n_cells: int) -> AnnData:
    """Counts of cells over genes that all weights know some of."""
    adata = synthetic(n_cells, N_GENES, N_EXPRESSED)
    coding = sf.datasets.human_genes()["symbol"].dropna().drop_duplicates()
    adata.var_names = coding.sample(N_GENES, random_state=0).tolist()
    return adata


def written(folder: Path, n_cells: int, source: str) -> Path:
    """A file of cells, or a store; made once, of some thousand cells repeated."""
    path = folder / f"{n_cells}.{'zarr' if source == 'dask' else source}"
    if path.exists():
        return path
    cells = tile(min(n_cells, TILE))
    nothing = sparse.csr_matrix((n_cells, N_GENES), dtype=np.float32)
    whole = AnnData(nothing, pd.DataFrame(index=pd.RangeIndex(n_cells).astype(str)), cells.var)
    if source == "h5ad":
        whole.write_h5ad(path)
        with h5py.File(path, "r+") as file:
            fill(file, cells, n_cells)
    else:
        whole.write_zarr(path)
        fill(zarr.open_group(path, mode="a", use_consolidated=False), cells, n_cells)
        zarr.consolidate_metadata(path)
    return path


def fill(store: Any, cells: AnnData, n_cells: int) -> None:
    """Write counts over and over."""
    del store["X"]
    write_elem(store, "X", cells.X)
    on_disk = sparse_dataset(store["X"])
    for _ in range(n_cells // cells.n_obs - 1):
        on_disk.append(cells.X)


def opened(path: Path, source: str) -> AnnData:
    """Cells that are read when a verb asks for them; ``"memory"``: that have been read."""
    adata = read_lazy(path) if source in ("zarr", "dask") else read_h5ad(path, backed="r")
    if source == "zarr":
        store = zarr.open_group(path, mode="r")
        adata = AnnData(sparse_dataset(store["X"]), adata.obs.to_memory(), adata.var.to_memory())
    return adata


def measured(verb: str, path: Path, source: str) -> Row:
    """Processor seconds and peak bytes of a verb."""
    sf.settings.verbosity = "error"
    adata = opened(path, source)
    VERBS[verb](with_columns(adata[:WARM_CELLS].to_memory()))
    adata = with_columns(adata) if source != "dask" else adata
    start = time.process_time()
    peak = peak_above_start(functools.partial(VERBS[verb], adata))
    return {"seconds": time.process_time() - start, "peak": peak}


def table(rows: list[Row], sizes: Sequence[int]) -> str:
    """Time by size, its exponent, and memory."""
    frame, body = pd.DataFrame(rows), []
    for (verb, source), part in frame.groupby(["verb", "source"], sort=False):
        of_size = part.set_index("n_cells")
        here = [n for n in sizes if n in of_size.index]
        seconds = [of_size.loc[n, "seconds"] for n in here]
        exponent = np.log(seconds[-1] / seconds[0]) / np.log(here[-1] / here[0]) if len(here) > 1 else np.nan
        times = [f"{of_size.loc[n, 'seconds']:.1f}" if n in here else "" for n in sizes]
        memory = [f"{of_size.loc[n, 'peak'] / 2**20:,.0f}" if n in here else "" for n in sizes]
        body.append((verb, source, *times, f"{exponent:.2f}", *memory))
    columns = ["verb", "source", *(f"{n:,} cells, CPU s" for n in sizes), "exponent", *(f"{n:,}, MiB" for n in sizes)]
    return markdown_table("Time and peak memory, results included", columns, body)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    parser = arguments(__doc__, "scaling", data=False)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 400_000])
    parser.add_argument("--sources", nargs="+", default=["h5ad"], choices=("h5ad", "zarr", "dask"))
    parser.add_argument("--verbs", nargs="+", default=list(VERBS), choices=VERBS, metavar="VERB")
    parser.add_argument("--most-seconds", type=float, default=600, help="longer ones are left out")
    parser.add_argument("--cache", type=Path, default=Path("runs/benchmarks/scaling"))
    args = parse(parser, argv)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for verb in args.verbs:
            for source in args.sources:
                last = 0.0
                for before, n_cells in zip([args.sizes[0], *args.sizes], args.sizes, strict=False):
                    if last * n_cells / before > args.most_seconds:
                        break
                    path = written(Path(folder), n_cells, source)
                    part = args.cache / f"{verb.replace(' ', '_').replace(',', '')}.{source}.{n_cells}.json"
                    work = partial(in_fresh_process, measured, verb, path, source)
                    (found,) = kept(part, lambda work=work: [work()])
                    last = found["seconds"]
                    rows.append({"verb": verb, "source": source, "n_cells": n_cells} | found)
    text = [f"# Scaling\n\n`{args.command}`\n", table(rows, args.sizes)]
    write_results(args.out, {"command": args.command, "surroundings": surroundings("numba"), "rows": rows}, text)
    print("\n".join(text))
