"""Momentum queue or divide and conquer: the same fine-tuning of a LangCell on the same cells, in one way or the other.

    python -m benchmarks contrast DATA_FOLDER

Weights go on learning from labelled cells of three sets and the texts of their types, by the contrast of cells and
texts alone: in large batches that are in memory at once, with a queue; in the same batches, divided; and in batches of
the size that division has in memory, with a queue that makes up for the rest, and without. All see the same number of
cells; the first two take the same steps on the same batches. The rate of small batches, which take more steps, is lower
by the square root of the ratio. Other cells of these sets are then named by similarity, and found by the texts; a
quarter of the types has not been learned from. The given weights may have seen all of these cells: what counts is the
difference.
"""

from __future__ import annotations

import math
import time
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import pandas as pd
from recipes.langcell.texts import add_texts

import scfoundry as sf
from benchmarks.command import RANDOM, arguments, kept, load_model, parse
from benchmarks.contrast.tasks import SETS, TYPE, read, scores
from benchmarks.reporting import about, markdown_table, mean_and_spread, write_results

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.contrast.tasks import Task

    Prepared = Callable[[int], tuple[sf.model.LangCell, Task]]

DEFAULT = "langcell-mini"
BATCH, PART, QUEUE = 256, 16, 1024
LR = 1e-3
DIVIDED = {"contrast": "divide_and_conquer", "batch_size": BATCH, "part_size": PART}
# Way -> length of the queue, arguments of train.
WAYS: dict[str, tuple[int, dict[str, Any]]] = {
    f"divide and conquer, {BATCH} cells in parts of {PART}": (0, DIVIDED),
    f"momentum, {BATCH} cells and a queue of {QUEUE:,}": (QUEUE, {"batch_size": BATCH}),
    f"momentum, {PART} cells and a queue of {BATCH - PART}": (BATCH - PART, {"batch_size": PART}),
    f"{PART} cells, no queue": (0, {"batch_size": PART}),
}
ALONE = {"masked_genes": 0, "cell_cell": 0, "matching": 0}
TITLES = {
    "recall@1": "accuracy",
    "macro_recall@1": "mean recall of types",
    "unseen": "mean recall of unseen types",
    "mrr": "mean reciprocal rank",
    "map": "mean average precision of cells for a text",
    "steps": "steps",
    "seconds": "processor seconds of training",
}


def run(prepared: Prepared, way: str | None, *, epochs: int, seed: int) -> list[dict[str, Any]]:
    """Scores of one way with one seed; `None` leaves the weights as they are."""
    start, task = prepared(seed)
    row = {"method": way or "before", "seed": seed, "n_learned": task.learned.n_obs, "n_named": task.named.n_obs}
    if way is None:
        return [row | scores(start, task)]
    queue_size, how = WAYS[way]
    sf.model.LangCell.setup_anndata(task.learned, text_keys=add_texts(task.learned, TYPE))
    config = start.config.as_dict() | {"queue_size": queue_size}
    model = sf.model.LangCell(task.learned, genes=start.genes, **config)
    model.module.load_state_dict(start.module.state_dict())
    steps = epochs * math.ceil(task.learned.n_obs / how["batch_size"])
    lr = LR * math.sqrt(how["batch_size"] / BATCH)
    rates = {"lr": lr, "warmup_steps": steps // 10, "weight_decay": 0.01}
    began = time.process_time()
    model.train(epochs, **how, **rates, loss_weights=ALONE, validation_size=0, seed=seed, accelerator="cpu")
    seconds = round(time.process_time() - began, 1)
    return [row | scores(model, task) | {"steps": steps, "seconds": seconds}]


def main(argv: Sequence[str] | None = None) -> None:
    """Train, score, report."""
    parser = arguments(__doc__, "contrast", model=DEFAULT, seeds=3)
    parser.add_argument("--epochs", type=int, default=4, help="passes over the cells, 4 by default")
    parser.add_argument("--ways", type=int, default=len(WAYS), help="how many ways, from the first; all by default")
    args = parse(parser, argv)
    sf.settings.verbosity = "error"
    rows: list[dict[str, Any]] = []

    @cache
    def prepared(seed: int) -> tuple[sf.model.LangCell, Task]:
        start = load_model(args.model, seed=seed)
        return start, read(args.data, start.genes, seed)

    for number, way in enumerate([None, *WAYS][: args.ways + 1]):
        for seed in range(args.seeds):
            path = args.cache / f"{args.weights}.{args.epochs}.{number}.{seed}.json"
            rows += kept(path, partial(run, prepared, way, epochs=args.epochs, seed=seed))
    table = pd.DataFrame(rows)
    body = [
        (way, *(mean_and_spread(runs[name], digits=0 if name in ("steps", "seconds") else 3) for name in TITLES))
        for way, runs in table.groupby("method", sort=False)
    ]
    sizes = table[table["seed"] == 0].iloc[0]
    seen = "" if args.model.startswith(RANDOM) else " The weights may have seen these cells before."
    head = (
        f"# Momentum queue or divide and conquer\n\n`{args.command}`\n\n{', '.join(SETS)}: {sizes['n_learned']:,} "
        f"cells to learn from, {args.epochs} times, {sizes['n_named']:,} to name. Divisions and trainings 0 to "
        f"{args.seeds - 1}; mean ± standard deviation.{seen}\n"
    )
    tables = [head, markdown_table("Fine-tuning by the contrast of cells and texts", ["", *TITLES.values()], body)]
    settings = {"batch": BATCH, "part": PART, "queue": QUEUE, "lr": LR, "epochs": args.epochs}
    write_results(args.out, about(args, "scikit-learn") | {"settings": settings, "scores": rows}, tables)
    print("\n".join(tables))
