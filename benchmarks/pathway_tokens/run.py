"""Do pathway tokens show the response to interferon-beta, of which nobody told them?

    python -m benchmarks pathway_tokens DATA_FOLDER --model NAME

`DATA_FOLDER` also holds ``knowledge/``. Frequencies of the codes of the given weights, of a small ScPaLM that learns
from the very cells without their condition, and of both with random weights scaled to the cells. Beside them stand
components of the same cells, and the mean expression of the genes that are known to respond. What was computed is kept
in ``--cache``.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pandas as pd

import scfoundry as sf
from benchmarks.command import arguments, kept, load_model, parse
from benchmarks.pathway_tokens.tasks import (
    RESPONSE,
    SETTINGS,
    Task,
    peers,
    read,
    scaled_random,
    scores,
    scores_of_codes,
)
from benchmarks.reporting import about, markdown_table, mean_and_spread, write_results

if TYPE_CHECKING:
    from collections.abc import Sequence

    Row = dict[str, Any]

DEFAULT, OWN = "scpalm-mini", "ScPaLM of these cells"
# The ScPaLM of these cells; its second stage would change no code.
STRUCTURE = {"n_tokens": 32, "n_hidden": 64, "n_codes": 32, "n_layers": 1, "n_heads": 4, "n_intermediate": 128}
STRUCTURE |= {"n_value": 16, "n_gene": 16}
TRAINING: dict[str, Any] = {"stage": 1, "max_epochs": 12, "lr": 3e-3, "batch_size": 64}
MEASURES = {
    "auroc": ("AUROC, regression", 3),
    "best_alone": ("AUROC, best feature", 3),
    "n_differing": ("features that differ", 0),
    "n_features": ("features that vary", 0),
    "perplexity": ("perplexity", 1),
}


def without_seeds(task: Task, name: str, model: Any) -> list[Row]:
    """Scores of the given weights, and of peers."""
    rows = [{"method": name, "seed": 0} | scores_of_codes(task, model, 0)]
    return rows + [{"method": peer, "seed": 0} | scores(task, features, 0) for peer, features in peers(task)]


def of_these_cells(task: Task, seed: int) -> list[Row]:
    """Scores of a ScPaLM that learns from the cells, and of one that does not."""
    cells = task.cells.copy()
    sf.model.ScPaLM.setup_anndata(cells)
    model = sf.model.ScPaLM(cells, seed=seed, **STRUCTURE)
    model.train(**TRAINING, seed=seed, accelerator="cpu", enable_progress_bar=False)
    losses = {key: frame.iloc[:, 0].astype(float).tolist() for key, frame in model.history.items()}
    learned = {"method": OWN, "seed": seed, "losses": losses} | scores_of_codes(task, model, seed)
    return [learned, *of_random_weights(task, OWN, model, seed)]


def of_random_weights(task: Task, name: str, model: Any, seed: int) -> list[Row]:
    """Scores of the same structure that has learned nothing."""
    codes = scores_of_codes(task, scaled_random(model, task.cells, seed), seed)
    return [{"method": f"{name}, random weights", "seed": seed} | codes]


def tables_of(rows: list[Row]) -> list[str]:
    """How well stimulated cells are told, the codes that go with the response, and the genes of what differs most."""
    runs = pd.DataFrame(rows)
    told = [
        (method, *(mean_and_spread(of_method[measure], digits=digits) for measure, (_, digits) in MEASURES.items()))
        for method, of_method in runs.groupby("method", sort=False)
    ]
    response, genes = [], []
    for row in [row for row in rows if "best_code" in row]:
        of_run, place = (row["method"], row["seed"]), f"of {row['n_features']:.0f}"
        for gene_set in RESPONSE.values():
            codes = [code for code in row["codes"] if code["gene_set"] == gene_set]
            cells = ("-",) * 5
            if codes:
                c = min(codes, key=lambda code: code["q"])
                shared = f"{c['n_shared']} of {c['n_code']}"
                cells = (c["code"], shared, f"{c['q']:.0e}", f"{c['auroc']:.3f}", f"{c['place']} {place}")
            name = gene_set.removeprefix("HALLMARK_INTERFERON_").removesuffix("_RESPONSE").lower()
            response.append((*of_run, name, len(codes), *cells))
        genes.append((*of_run, row["best_code"], f"{row['best_alone']:.3f}", ", ".join(row["genes_of_best"])))
    names = ("method", "seed", "interferon set", "codes that have it", "surest code", "genes of it", "q", "AUROC")
    title = f"Codes whose genes hold a set, q below {SETTINGS['surest_q']:.0e}, and the place of the surest one"
    return [
        markdown_table("Stimulated against control", ["method", *(name for name, _ in MEASURES.values())], told),
        markdown_table(title, [*names, "place by AUROC"], response),
        markdown_table("Genes of the code that differs most", ["method", "seed", "code", "AUROC", "genes"], genes),
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Score and report."""
    args = parse(arguments(__doc__, "pathway_tokens", model=DEFAULT, seeds=3), argv)
    sf.settings.verbosity = "error"
    model, task = load_model(args.model), read(args.data)
    rows = kept(args.cache / f"{args.weights}.json", partial(without_seeds, task, args.weights, model))
    for seed in range(args.seeds):
        compute = partial(of_random_weights, task, args.weights, model, seed)
        rows += kept(args.cache / f"{args.weights}.random{seed}.json", compute)
        rows += kept(args.cache / f"own.{seed}.json", partial(of_these_cells, task, seed))
    tables = [f"# Pathway tokens\n\n`{args.command}`\n", *tables_of(rows)]
    results = about(args, "scanpy", "anndata", "scvi-tools", "scikit-learn")
    results |= {"settings": SETTINGS | {"structure": STRUCTURE, "training": TRAINING}, "scores": rows}
    write_results(args.out, results, tables)
    print("\n".join(tables))
