"""Memory and time of training steps at published size: all at once, in parts, and by matrices of low rank.

    python -m benchmarks training_memory [--cells 32] [--genes 1000] [--only celler]

Random weights, two batches of synthetic cells, `train` as a user calls it: forward, backward and AdamW, whose moments
are there from the second step on. Every row is a fresh process; its peak is all that it holds, Python and torch
included (Linux).
"""

from __future__ import annotations

import time
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scipy import sparse

import scfoundry as sf
from benchmarks.command import arguments, parse
from benchmarks.reporting import markdown_table, surroundings, write_results
from benchmarks.speed.memory import in_fresh_process, status_bytes
from scfoundry.data.genes import GeneVocabulary

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

GIB = 2**30
N_WORDS, N_STEPS = 30_522, 2
AGAIN = {"gradient_checkpointing": True}
COLUMNS = ("model", "way", "GiB at the peak", "CPU s per step", "million parameters that learn", "of")
WHOLE, PARTS, LOW_RANK = "all at once", "in parts, layers computed again", "the same with lora=True"


def cells_of(n_cells: int, n_expressed: int, n_genes: int) -> AnnData:
    """Cells that express so many of the genes, of tumours and not, each with a text."""
    rng = np.random.default_rng(0)
    genes = np.concatenate([np.sort(rng.choice(n_genes, n_expressed, replace=False)) for _ in range(n_cells)])
    values = rng.geometric(0.3, len(genes)).astype(np.float32)
    counts = sparse.csr_matrix((values, genes, np.arange(n_cells + 1) * n_expressed), shape=(n_cells, n_genes))
    obs = pd.DataFrame(
        {"tissue": np.resize(["tumour", "normal"], n_cells)}, index=[f"cell {i}" for i in range(n_cells)]
    )
    obs["text"] = [
        f"cell type: number {i % 4}. A cell of the kind {i % 4}, of which little is known." for i in range(n_cells)
    ]
    return AnnData(counts, obs=obs, var=pd.DataFrame(index=[f"ENSG{number:011d}" for number in range(n_genes)]))


def langcell(adata: AnnData) -> sf.model.LangCell:
    """Geneformer's 12 layers and BERT base, as released; stage 2, all four objectives."""
    sf.model.LangCell.setup_anndata(adata, text_keys="text")
    genes = GeneVocabulary(adata.var_names, medians=np.ones(adata.n_vars))
    cell = {"n_hidden": 512, "n_layers": 12, "n_heads": 8, "n_intermediate": 1024}
    text = {"n_text_hidden": 768, "n_text_layers": 12, "n_text_heads": 12, "n_text_intermediate": 3072}
    return sf.model.LangCell(adata, genes=genes, n_words=N_WORDS, **cell, **text)


def celler(adata: AnnData) -> sf.model.Celler:
    """The structure of scGPT."""
    sf.model.Celler.setup_anndata(adata)
    return sf.model.Celler(adata)


def celllm(adata: AnnData) -> sf.model.CellLM:
    """The published structure, all three objectives."""
    sf.model.CellLM.setup_anndata(adata, tumour_key="tissue")
    return sf.model.CellLM(adata)


# Genes of the published vocabulary, model, and arguments of the ways to train it.
MODELS: dict[str, tuple[int, Callable[[AnnData], Any], dict[str, dict[str, Any]]]] = {
    "langcell": (25_424, langcell, {WHOLE: {}, PARTS: AGAIN | {"contrast": "divide_and_conquer"}}),
    "celler": (60_694, celler, {WHOLE: {}, PARTS: AGAIN | {"part_size": 1}}),
    "celllm": (19_379, celllm, {WHOLE: {"part_size": 1 << 20}, PARTS: AGAIN}),
}


class Step(pl.Callback):
    """Processor time of the steps, and how many parameters learn."""

    def __init__(self) -> None:
        self.seconds, self.learning = 0.0, 0

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *what: Any) -> None:
        """Begin."""
        self.learning = sum(parameter.numel() for parameter in pl_module.parameters() if parameter.requires_grad)
        self.seconds -= time.process_time()

    def on_train_batch_end(self, *what: Any) -> None:
        """End."""
        self.seconds += time.process_time()


def steps(name: str, how: dict[str, Any], n_cells: int, n_expressed: int) -> dict[str, float]:
    """Peak bytes of this process, processor seconds of a step, and millions of parameters, learning and in all."""
    torch.set_num_threads(1)
    n_genes, build, _ = MODELS[name]
    model, step = build(cells_of(N_STEPS * n_cells, n_expressed, n_genes)), Step()
    fixed: dict[str, Any] = {"max_epochs": 1, "batch_size": n_cells, "validation_size": 0.0, "warmup_steps": 0}
    model.train(**fixed, accelerator="cpu", enable_progress_bar=False, callbacks=[step], **how)
    return {
        "peak": status_bytes("VmHWM"),
        "seconds": step.seconds / N_STEPS,
        "learning": step.learning / 1e6,
        "parameters": sum(parameter.numel() for parameter in model.module.parameters()) / 1e6,
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    parser = arguments(__doc__, "training_memory", data=False)
    parser.add_argument("--cells", type=int, default=32, help="cells per step, 32 by default")
    parser.add_argument("--genes", type=int, default=1000, help="genes that a cell expresses, 1,000 by default")
    parser.add_argument("--only", choices=MODELS, nargs="+", default=list(MODELS))
    args = parse(parser, argv)
    rows: list[dict[str, Any]] = []
    for name in args.only:
        ways = MODELS[name][2]
        for way, how in (ways | {LOW_RANK: ways[PARTS] | {"lora": True}}).items():
            try:
                measured = in_fresh_process(steps, name, how, args.cells, args.genes)
            except BrokenProcessPool:  # killed by the system
                measured = {"peak": None}
            rows.append({"model": name, "way": way} | measured)
            title = f"Two training steps of {args.cells} cells with {args.genes:,} genes, one thread, AdamW, float32"
            table = markdown_table(title, COLUMNS, map(formatted, rows))
            write_results(args.out, {"command": args.command, "surroundings": surroundings(), "rows": rows}, [table])
    print(table)


def formatted(row: dict[str, Any]) -> tuple[str, ...]:
    """A row as the table shows it."""
    if row["peak"] is None:
        return (row["model"], row["way"], "more than there is", "", "", "")
    numbers = (
        f"{row['peak'] / GIB:.1f}",
        f"{row['seconds']:.0f}",
        f"{row['learning']:.1f}",
        f"{row['parameters']:.0f}",
    )
    return (row["model"], row["way"], *numbers)


if __name__ == "__main__":
    main()
