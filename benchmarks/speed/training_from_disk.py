"""Training on cells that stay on disk: the share of a step that is waiting for data, and memory over their number.

    python -m benchmarks training_from_disk [--sizes 200000 400000] [--sources h5ad zarr] [--models celler scpalm]

Synthetic counts, 4,000 genes of which a cell expresses about 370; small weights that ship with the package, one thread.
Each row is a fresh process that registers the cells, goes through them once as every training does, and takes steps
over 8,192 cells, which is what is mixed at a time. Seconds are of processor time, memory is beyond what was resident
before. CellPLM reads whole contexts of 5,000 cells, of which a step keeps some.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import torch

import scfoundry as sf
from benchmarks.command import arguments, parse
from benchmarks.reporting import markdown_table, surroundings, write_results
from benchmarks.speed.memory import in_fresh_process, peak_above_start
from benchmarks.speed.scaling import WARM_CELLS, opened, written
from scfoundry.data.matrix import reader
from scfoundry.data.matrix.kept_blocks import CELLS_IN_MEMORY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

MODELS: dict[str, tuple[Any, dict[str, Any]]] = {
    "celler": (lambda: sf.model.Celler, {"batch_size": 32}),
    "celllm": (lambda: sf.model.CellLM, {"batch_size": 512}),
    "langcell": (lambda: sf.model.LangCell, {"batch_size": 32, "stage": 1}),
    "scpalm": (lambda: sf.model.ScPaLM, {"batch_size": 128, "stage": 1}),
    "cellplm": (lambda: sf.model.CellPLM, {}),
}
COLUMNS = ("model", "cells", "source", "steps", "CPU s", "of them reading", "share", "GB at the peak")


class Steps(pl.Callback):
    """Processor time of steps, and of reading within them."""

    def __init__(self) -> None:
        self.n, self.seconds, self.reading, self.within = 0, 0.0, 0.0, False
        read = reader.CountsReader.read

        def timed(own: reader.CountsReader, rows: Any) -> Any:
            start = time.process_time()
            found = read(own, rows)
            self.reading += (time.process_time() - start) * self.within
            return found

        reader.CountsReader.read = timed  # type: ignore[method-assign]

    def on_train_batch_start(self, *what: Any) -> None:
        """Begin."""
        self.within = True
        self.seconds -= time.process_time()

    def on_train_batch_end(self, *what: Any) -> None:
        """End."""
        self.within = False
        self.seconds += time.process_time()
        self.n += 1


def take_steps(name: str, adata: AnnData, *, n_steps: int, callbacks: list[pl.Callback]) -> None:
    """Register cells, and begin an epoch with small weights."""
    cls, how = MODELS[name][0](), MODELS[name][1]
    cls.setup_anndata(adata, **({"batch_key": "sample"} if name == "cellplm" else {}))
    fixed: dict[str, Any] = {"max_epochs": 1, "validation_size": 0.0, "limit_train_batches": n_steps}
    model = cls.from_pretrained(f"{name}-mini", adata)
    model.train(accelerator="cpu", enable_progress_bar=False, callbacks=callbacks, **fixed, **how)


def trained(name: str, path: str, source: str) -> dict[str, Any]:
    """Steps of a training on a file or store."""
    torch.set_num_threads(1)
    reader.HELD_VALUES = 0  # or as many cells as these would be kept in memory
    steps = Steps()
    few = opened(Path(path), source)[:WARM_CELLS].to_memory()
    take_steps(name, few, n_steps=1, callbacks=[])  # loads and compiles
    adata = opened(Path(path), source)
    n_steps = CELLS_IN_MEMORY // 2 // MODELS[name][1].get("batch_size", 1024)
    peak = peak_above_start(lambda: take_steps(name, adata, n_steps=n_steps, callbacks=[steps]))
    return {"steps": steps.n, "seconds": steps.seconds, "reading": steps.reading, "peak": peak}


def formatted(row: dict[str, Any]) -> tuple[str, ...]:
    """A row as the table shows it."""
    share = f"{row['reading'] / row['seconds']:.1%}"
    numbers = (f"{row['seconds']:.1f}", f"{row['reading']:.1f}", share, f"{row['peak'] / 1e9:.2f}")
    return (row["model"], f"{row['cells']:,}", row["source"], str(row["steps"]), *numbers)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    parser = arguments(__doc__, "training_from_disk", data=False)
    parser.add_argument("--sizes", type=int, nargs="+", default=[200_000, 400_000])
    parser.add_argument("--sources", nargs="+", default=["h5ad", "zarr"], choices=["h5ad", "zarr", "dask"])
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    args = parse(parser, argv)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as place:
        for size in args.sizes:
            for source in args.sources:
                path = str(written(Path(place), size, source))
                for name in args.models:
                    row = in_fresh_process(trained, name, path, source)
                    rows.append({"model": name, "cells": size, "source": source} | row)
                    table = markdown_table("Training from disk, one thread", COLUMNS, map(formatted, rows))
                    results = {"command": args.command, "surroundings": surroundings(), "rows": rows}
                    write_results(args.out, results, [table])
    print(table)


if __name__ == "__main__":
    main()
