"""ScPaLM without one of its parts, or with another reading of what the paper leaves open.

    python -m benchmarks scpalm_ablation DATA_FOLDER

Small models learn both stages from the very cells of a data set without their labels, once per seed; all of as many
steps. Clusters of their cell tokens (the mean of the pathway tokens for one) are scored as by `cluster`. What was
computed is kept in ``--cache``.
"""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

import scfoundry as sf
from benchmarks.cluster.run import DATA_SETS, MEASURES, scores
from benchmarks.command import arguments, kept, parse
from benchmarks.embed.run import embedded
from benchmarks.reporting import score_table, surroundings, write_results

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.embed.tasks import DataSet

    Row = dict[str, Any]

STRUCTURE = {"n_tokens": 32, "n_hidden": 64, "n_codes": 64, "n_layers": 2, "n_heads": 4, "n_intermediate": 128}
STRUCTURE |= {"n_value": 32, "n_gene": 16}
N_STEPS, BATCH_SIZE = (400, 200), 64
TRAINING: dict[str, Any] = {"batch_size": BATCH_SIZE, "lr": 2e-3, "validation_size": 0.05}
# Tables 5 to 7 of the paper.
PARTS: dict[str, dict[str, Any]] = {
    "all parts": {},
    "shared first layer": {"gene_projection": False},
    "no encoder": {"encoder": False},
    "no quantiser": {"quantiser": False},
    "no encoder, no quantiser": {"encoder": False, "quantiser": False},
    "no contrast": {"contrastive_weight": 0.0},
    "no cell token, mean of tokens": {"pooling": "mean"},
}
# What the defaults decide, the other way.
READINGS: dict[str, dict[str, Any]] = {
    "quantiser weight 1": {"quantiser_weight": 1.0},
    "one head for all tokens": {"shared_head": True},
    "no means of genes": {"gene_means": False},
    "no offsets of tokens": {"token_offsets": False},
    "decoder without the cell token": {"exclude_cell_token": True},
}
# Of the validation cells after training, by the names in the history of a model.
LEARNED = {
    "explained_variance_validation": "Share of the variance among cells explained by stage 1, held-out cells",
    "perplexity_validation": "Perplexity of codes in a batch of held-out cells",
}


def trained(data: DataSet, folder: Path, changes: dict[str, Any], seed: int, seeds: Sequence[int]) -> list[Row]:
    """Scores of a model that learned from the cells, a row per seed of the clusters."""
    adata = data.read(folder)
    sf.model.ScPaLM.setup_anndata(adata)
    model = sf.model.ScPaLM(adata, seed=seed, **STRUCTURE | changes)
    n_per_epoch = max(1, round(adata.n_obs * (1 - TRAINING["validation_size"]) / BATCH_SIZE))
    epochs = tuple(round(n / n_per_epoch) for n in N_STEPS)
    start = time.process_time()
    model.train(epochs, **TRAINING, seed=seed, accelerator="cpu", enable_progress_bar=False)
    seconds = time.process_time() - start
    last = {name: float(frame.iloc[:, 0].dropna().iloc[-1]) for name, frame in model.history.items()}
    what = {"seed": seed, "seconds": round(seconds, 1), "losses": last}
    what |= {name: last[name] for name in LEARNED if name in last}
    embedding, _ = embedded(adata, model, None, adapt=None)
    return [row | what | {"seed of clusters": row["seed"]} for row in scores("", embedding, data.scored(adata), seeds)]


def main(argv: Sequence[str] | None = None) -> None:
    """Train, embed, cluster, report."""
    parser = arguments(__doc__, "scpalm_ablation", seeds=3)
    parser.add_argument("--cache", type=Path, default=Path("runs/benchmarks"), help="finished runs")
    parser.add_argument("--data-sets", nargs="*", default=["pdac_a_indrop"], choices=DATA_SETS)
    args = parse(parser, argv)
    sf.settings.verbosity = "error"
    rows: list[Row] = []
    for name in args.data_sets:
        for method, changes in (PARTS | READINGS).items():
            for seed in range(args.seeds):
                compute = partial(trained, DATA_SETS[name], args.data, changes, seed, range(args.seeds))
                found = kept(args.cache / "scpalm_ablation" / f"{name}.{method}.{seed}.json", compute)
                rows += [{"data": name} | row | {"method": method} for row in found]
    table = pd.DataFrame(rows)
    tables = [f"# Parts of scPaLM\n\n`{args.command}`\n"]
    tables += [score_table(title, table, score, columns="data") for score, title in (MEASURES | LEARNED).items()]
    results = {"command": args.command, "surroundings": surroundings("scanpy", "anndata", "scvi-tools", "igraph")}
    results |= {"settings": {"structure": STRUCTURE, "steps": N_STEPS, "training": TRAINING}, "scores": rows}
    write_results(args.out, results, tables)
    print("\n".join(tables))
