"""Responses of lines to drugs: new pairs, lines, tissues and drugs, beside means, ridge, neighbours and forests.

    python -m benchmarks drug_response DATA_FOLDER --model expression

``--model`` names weights whose latent is read beside expression; ``expression`` reads none. What a model adds is the
difference of the two, on the same draws. Peers are computed once, whatever the model; parts are kept in ``--cache``.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any

import pandas as pd

import scfoundry as sf
from benchmarks.command import arguments, kept, load_model, parse
from benchmarks.drug_response.peers import PEERS
from benchmarks.drug_response.report import tables
from benchmarks.drug_response.tasks import DATA, RELATIVE, SPLITS, read, scored, tasks
from benchmarks.reporting import surroundings, write_results

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

Row = dict[str, Any]
DEFAULT = "expression"
# Sixteen as published take too many steps for a CPU.
PAIRS_PER_STEP = 256
OURS = "sf.tl.drug_response"
NETWORK = 'the same, drug_encoder="gin"'
PER_DRUG = ("per-drug ridge", "per-drug kNN")


def of_peers(lines: AnnData, split: str, seed: int) -> list[Row]:
    """Scores of all that need no model."""
    task, rows = tasks(lines, split, seed), []
    for name, predict in PEERS.items():
        new_drugs = split == "cold_drug"
        if (name in PER_DRUG and new_drugs) or (name == "mean of similar drugs" and not new_drugs):
            continue
        begin = time.perf_counter()
        found = pd.DataFrame(predict(task), index=task.train.index, columns=task.train.columns)
        rows.append(scored(task, name, found, seconds=time.perf_counter() - begin))
    return rows


def ours(lines: AnnData, split: str, seed: int, model: Any, *, name: str = OURS, **how: Any) -> list[Row]:
    """Scores of the verb."""
    task = tasks(lines, split, seed)
    begin = time.perf_counter()
    layer = None if model == DEFAULT else RELATIVE
    found = sf.tl.drug_response(
        task.lines,
        response=task.train,
        smiles={drug: text for drug, text in task.smiles.items() if drug in task.train},
        model=model,
        layer=layer,
        n_folds=0,
        rng=seed,
        copy=True,
        **how,
    )
    seconds = time.perf_counter() - begin
    return [
        scored(task, name, found.obsm["drug_response"], seconds=seconds)
        | {f"weight of {name}": weight for name, weight in found.uns["drug_response"].get("weights", {}).items()}
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Score and report."""
    parser = arguments(__doc__, "drug_response", model=DEFAULT, seeds=5)
    parser.add_argument("--splits", nargs="+", default=list(SPLITS), choices=SPLITS, help="which, all by default")
    parser.add_argument(
        "--network", type=int, default=0, help="epochs of the published network on the first draw; slow"
    )
    args = parse(parser, argv)
    sf.settings.verbosity = "error"
    model = DEFAULT if args.model == DEFAULT else load_model(args.model)
    rows: list[Row] = []
    for name in DATA:
        lines, file = read(args.data, name), DATA[name][0]
        for split in args.splits:
            for seed in range(args.seeds):
                part = f"{file}.{split}.{seed}"
                found = kept(args.cache / f"{args.weights}.{part}.json", partial(ours, lines, split, seed, model))
                found += kept(args.cache / f"peers.{part}.json", partial(of_peers, lines, split, seed))
                if args.network and seed == 0:
                    how = {"drug_encoder": "gin", "max_epochs": args.network, "pairs_per_step": PAIRS_PER_STEP}
                    network = partial(ours, lines, split, seed, model, name=NETWORK, **how)
                    found += kept(args.cache / f"network{args.network}.{args.weights}.{part}.json", network)
                rows += [{"data": name} | row for row in found]
    scores = pd.DataFrame(rows)
    weights = {"weights": DEFAULT} if model == DEFAULT else model.provenance
    results = {"command": args.command, "weights": weights, "surroundings": surroundings("scikit-learn", "rdkit")}
    results |= {"scores": rows}
    text = [f"# Drug response\n\n`{args.command}`\n", *tables(scores)]
    write_results(args.out, results, text, rows=scores)
    print("\n".join(text))
