"""Time and memory of whole verbs over the number of cells, and over where they lie.

    OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 python -m benchmarks scaling [--verbs ...] [--sources ...] [--seconds 45]

Synthetic counts, 4,000 genes of which a cell expresses about 370, in samples of 5,000 cells. Each measurement is made
in a process of its own with one thread, after a call on 300 cells has loaded weights and compiled: processor time, and
peak memory beyond what was resident before. Sizes grow as long as the next one is expected within the seconds given.
Exponents are those of time between 10,000 cells, or the fewest where there are not as many, and the most; and between
the two largest numbers of cells, where what a call costs by itself weighs least. From 180,000 of these cells on counts
are not kept in memory, and each pass reads them anew, as large contexts of CellPLM compute some things anew: a step,
and no power.
The first source is measured at all sizes, others at the largest of these that takes a fraction of the seconds. `store`
embeds into the store, `zarr` from it into memory.
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

__all__ = ["VERBS", "WARM_CELLS", "opened", "written"]

LABELS = ["B cell", "T cell", "NK cell", "monocyte", "fibroblast", "hepatocyte", "neuron", "endothelial cell"]
WARM_CELLS = 300
N_GENES, N_EXPRESSED, TILE = 4_000, 370, 20_000
# Every sample has as many cells, every spot about as many neighbours.
CELLS_PER_SAMPLE = 5_000
N_LEARNED, PANEL, N_SPOTS = 2_000, 1_000, 2_000
FROM = 10_000
SIZES = (2_000, 10_000, 50_000, 200_000, 400_000)
GENES = (250, 1_000, 3_000)
SOURCES = ("h5ad", "memory", "zarr", "dask", "store")
# Sources beside the first, and sizes beside the last: they take this part of the seconds.
SMALLER = 0.1

Row = dict[str, Any]


def few(adata: AnnData) -> AnnData:
    """Cells to learn from: their number does not grow."""
    return adata[:N_LEARNED].to_memory()


def annotate(adata: AnnData, model: str, **how: Any) -> None:
    """Learn labels from 2,000 cells, and predict those of all."""
    sf.tl.annotate(adata, few(adata), labels_key="cell_type", model=model, **how)


def retrieve(adata: AnnData, **how: Any) -> None:
    """The cells nearest to a text."""
    sf.tl.retrieve(adata, "a cell that presents antigen", **how)


def attention(adata: AnnData, **how: Any) -> None:
    """Attention between types, in contexts of the same size."""
    sf.tl.cell_attention(adata, groupby="cell_type", batch_key="sample", **how)


def denoise(adata: AnnData, **how: Any) -> None:
    """Ten genes of all cells."""
    genes = adata.var_names[:10].tolist()
    sf.tl.denoise(adata, "cellplm", fine_tune=False, batch_key="sample", genes=genes, **how)


def impute(spots: AnnData, n_genes: int = 100) -> None:
    """Genes of which spots lack counts, by 2,000 cells."""
    sf.tl.impute_spatial(spots[:, :PANEL].copy(), few(spots), genes=spots.var_names[PANEL:][:n_genes].tolist())


def encode(adata: AnnData, verb: Callable[..., Any], slot: str, **how: Any) -> None:
    """A verb whose result is a dask array where the cells are one, computed."""
    verb(adata, **how)
    for value in getattr(adata, slot).values():
        if hasattr(value, "compute"):
            value.compute()


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
    "denoise, ten genes": denoise,
    "retrieve": retrieve,
    "cell_attention": attention,
    "rank_encode": partial(encode, verb=sf.pp.rank_encode, slot="obsm"),
    "bin_expression": partial(encode, verb=sf.pp.bin_expression, slot="layers"),
    "impute_spatial, 100 genes": impute,
}
# Verbs of which a part of the data is asked for, so that they are in memory.
IN_MEMORY = ("impute_spatial, 100 genes",)
OVER_GENES = "impute_spatial, 2,000 spots, over genes"


def tile(n_cells: int) -> AnnData:
    """Counts of cells over genes that all weights know some of."""
    adata = synthetic(n_cells, N_GENES, N_EXPRESSED)
    coding = sf.datasets.human_genes()["symbol"].dropna().drop_duplicates()
    adata.var_names = coding.sample(N_GENES, random_state=0).tolist()
    return adata


def written(folder: Path, n_cells: int, source: str) -> Path:
    """A file of cells, or a store; made once, of some thousand cells repeated."""
    path = folder / f"{n_cells}.{'zarr' if source in ('zarr', 'dask', 'store') else 'h5ad'}"
    if path.exists():
        return path
    cells = tile(min(n_cells, TILE))
    nothing = sparse.csr_matrix((n_cells, N_GENES), dtype=np.float32)
    number = np.arange(n_cells)
    columns = {"sample": (number // CELLS_PER_SAMPLE).astype(str), "cell_type": np.array(LABELS)[number % len(LABELS)]}
    whole = AnnData(nothing, pd.DataFrame(columns, index=number.astype(str)), cells.var)
    whole.obsm["spatial"] = np.random.default_rng(0).random((n_cells, 2))
    if path.suffix == ".h5ad":
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
    for start in range(cells.n_obs, n_cells, cells.n_obs):
        on_disk.append(cells.X[: n_cells - start])


def opened(path: Path, source: str) -> AnnData:
    """Cells that are read when a verb asks for them; ``"memory"``: that have been read."""
    if path.suffix == ".h5ad":
        return read_h5ad(path, backed=None if source == "memory" else "r")
    adata = read_lazy(path)
    if source == "dask":
        return adata
    store = zarr.open_group(path, mode="r")
    return AnnData(sparse_dataset(store["X"]), adata.obs.to_memory(), adata.var.to_memory())


def measured(verb: str, path: Path, source: str, size: int) -> Row:
    """Processor seconds and peak bytes of a verb; ``size``: genes, where it is these that grow."""
    sf.settings.verbosity = "error"
    work = partial(impute, n_genes=size) if verb == OVER_GENES else VERBS[verb]
    adata = opened(path, source)
    work(adata[:WARM_CELLS].to_memory())
    start = time.process_time()
    peak = peak_above_start(functools.partial(work, path if source == "store" else adata))
    return {"seconds": time.process_time() - start, "peak": peak}


def sources_of(verb: str, sources: Sequence[str]) -> list[str]:
    """Where the cells of a verb may lie."""
    if verb in (*IN_MEMORY, OVER_GENES):
        return ["memory"]
    return [source for source in sources if source != "store" or verb.startswith("embed")]


def rows_of(verb: str, sources: Sequence[str], seconds: float, folder: Path, cache: Path) -> list[Row]:
    """Measurements of a verb."""
    rows: list[Row] = []
    sizes = GENES if verb == OVER_GENES else SIZES
    for source in sources_of(verb, sources):
        most, done = (seconds, sizes) if not rows else (SMALLER * seconds, [row["size"] for row in rows])
        if rows:
            cheap = [row["size"] for row in rows if row["source"] == rows[0]["source"] and row["seconds"] <= most]
            done = cheap[-1:] or done[:1]
        last = 0.0
        for before, size in zip([done[0], *done], done, strict=False):
            if last * size / before > most:
                break
            path = written(folder, N_SPOTS if verb == OVER_GENES else size, source)
            part = cache / f"{verb.replace(' ', '_').replace(',', '')}.{source}.{size}.json"
            work = partial(in_fresh_process, measured, verb, path, source, size)
            (found,) = kept(part, lambda work=work: [work()])
            last = found["seconds"]
            rows.append({"verb": verb, "source": source, "size": size} | found)
    return rows


def table(rows: list[Row]) -> str:
    """Every verb and source: the largest size, its time and memory, and how they grew from the one before."""
    body = []
    for (verb, source), part in pd.DataFrame(rows).groupby(["verb", "source"], sort=False):
        size, seconds, peak = (part[name].to_numpy() for name in ("size", "seconds", "peak"))
        text = [f"{size[0]:,} to {size[-1]:,}" if len(size) > 1 else f"{size[0]:,}"]
        text += [f"{seconds[-1]:.1f}", f"{size[-1] / seconds[-1]:,.0f}"]
        from_10k = int(np.searchsorted(size, FROM)) if size[-1] > FROM else 0
        for before in (from_10k, -2):
            grown = np.log([seconds[-1] / seconds[before], size[-1] / size[before]]) if len(size) > 1 else None
            text.append("" if grown is None else f"{grown[0] / grown[1]:.2f}")
        added = (peak[-1] - peak[-2]) / (size[-1] - size[-2]) if len(size) > 1 else None
        text.append(f"{peak[-1] / 2**20:,.0f}")
        body.append((verb, source, *text, "" if added is None else f"{added:,.0f}"))
    columns = ["verb", "source", "cells", "CPU s of the most", "cells per CPU s"]
    columns += ["exponent from 10,000", "of the last step", "peak MiB"]
    return markdown_table("Time and peak memory, results included", [*columns, "bytes for one more cell"], body)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    parser = arguments(__doc__, "scaling", data=False)
    parser.add_argument("--sources", nargs="+", default=list(SOURCES), choices=SOURCES)
    every = [*VERBS, OVER_GENES]
    parser.add_argument("--verbs", nargs="+", default=every, choices=every, metavar="VERB")
    parser.add_argument("--seconds", type=float, default=45, help="expected ones that a measurement may take")
    parser.add_argument("--cache", type=Path, default=Path("runs/benchmarks/scaling"))
    args = parse(parser, argv)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for verb in args.verbs:
            rows += rows_of(verb, args.sources, args.seconds, Path(folder), args.cache)
    text = [f"# Scaling\n\n`{args.command}`\n", table(rows)]
    write_results(args.out, {"command": args.command, "surroundings": surroundings("numba"), "rows": rows}, text)
    print("\n".join(text))
