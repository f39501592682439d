"""How well genes are imputed that a spatial panel lacks, beside what a user would otherwise take.

    python -m benchmarks impute_spatial DATA_FOLDER --model held_out

Up to 100 genes of a spatial set are held out by the published strata of sparsity, once per seed, and predicted from the
rest and a single-cell reference. The model should have seen none of the spatial sets. Scores are kept per method in
``--cache``, so that a run that was interrupted goes on.
"""

from __future__ import annotations

import importlib.util
import sys
import time
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

import scfoundry as sf
from benchmarks.command import NO_ERROR, TWIN, arguments, kept, load_model, parse, untrained
from benchmarks.impute_spatial.ceiling import ceiling
from benchmarks.impute_spatial.peers import PEERS, SETTINGS
from benchmarks.impute_spatial.report import SCORES, tables
from benchmarks.impute_spatial.tasks import PAIRS, read_task
from benchmarks.reporting import about, write_results
from scfoundry.model._capabilities import FineTunesImputation, HasGeneVectors, PredictsRates, can

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from benchmarks.impute_spatial.tasks import Task

    # Counts of the targets, and what the verb says of itself.
    Method = Callable[[Task, int], tuple[NDArray[np.float32], dict[str, float]]]

CORRELATIONS = ["pearson", "partial_pearson"]
PACKAGE_OF = {"Tangram": "tangram", "gimVI": "scvi"}


def ours(model: Any) -> dict[str, Method]:
    """The verb, each kind of evidence alone, and fine-tuned, as far as the model can; the verb without training."""
    ways: dict[str, tuple[dict[str, Any], tuple[type, ...]]] = {
        "sf.tl.impute_spatial": ({}, ()),
        "composition alone": ({"evidence": ["library", "composition"]}, ()),
        "gene vectors alone": ({"evidence": ["library", "gene_vectors"]}, (HasGeneVectors,)),
        "decoder alone": ({"evidence": ["library", "decoder"]}, (PredictsRates,)),
        "fine_tune=True": ({"fine_tune": True}, (FineTunesImputation,)),
        "decoder alone, fine-tuned": (
            {"fine_tune": True, "evidence": ["library", "decoder"]},
            (FineTunesImputation, PredictsRates),
        ),
    }
    found: dict[str, Method] = {
        name: partial(impute, model=model, **how)
        for name, (how, needs) in ways.items()
        if all(can(model, capability) for capability in needs)
    }
    return found | {TWIN: lambda task, seed: impute(task, seed, untrained(model, seed=seed))}


def impute(task: Task, seed: int, model: Any, **how: Any) -> tuple[NDArray[np.float32], dict[str, float]]:
    """Run the verb; also the weights it gave to evidence, and what it expects of its correlations."""
    spots = task.spots.copy()
    sf.tl.impute_spatial(spots, task.cells, genes=task.targets, model=model, context_key="section", **how)
    result = spots.uns["imputed"]
    facts = {f"weight_{name}": float(value) for name, value in result["weights"].items()}
    facts |= {f"expected_{name}": float(values.mean()) for name, values in result["confidence"][CORRELATIONS].items()}
    return spots.obsm["imputed"].to_numpy(), facts


def peers() -> dict[str, Method]:
    """Every peer that is installed."""
    missing = [name for name, package in PACKAGE_OF.items() if importlib.util.find_spec(package) is None]
    for name in missing:
        print(f"{name} is not installed and left out", file=sys.stderr)
    return {
        name: lambda task, seed, peer=peer: (peer(task, seed), {})
        for name, peer in PEERS.items()
        if name not in missing
    }


def scored(read: Callable[[], Task], pair: str, seed: int, name: str, method: Method) -> list[dict[str, Any]]:
    """Means over target genes; a gene that is constant in the prediction has no correlation, which counts as 0."""
    task = read()
    start = time.perf_counter()
    predicted, facts = method(task, seed)
    seconds = round(time.perf_counter() - start, 1)
    by_gene = sf.metrics.imputation(
        task.truth,
        predicted,
        log1p=True,
        library=task.library,
        positions=task.spots.obsm["spatial"],
        sections=task.sections,
    )
    varies = np.ptp(task.truth, axis=0) > 0
    means = by_gene.loc[varies, list(SCORES)].fillna(0).mean().to_dict()
    what = {"pair": pair, "seed": seed, "method": name}
    # Random weights take as long as others.
    cost = {} if name == TWIN else {"seconds": seconds}
    return [what | means | {"n_genes": int(varies.sum())} | facts | cost]


def without_error(read: Callable[[], Task], pair: str, seed: int) -> list[dict[str, Any]]:
    """What noise leaves to the best of predictions."""
    return [{"pair": pair, "seed": seed, "method": NO_ERROR} | ceiling(read(), seed)]


def main(argv: Sequence[str] | None = None) -> None:
    """Run what is asked for and write the results."""
    parser = arguments(__doc__, "impute_spatial", model="cellplm-mini", seeds=3)
    parser.add_argument("--first-seed", type=int, default=11, help="11 is that of the published hold-out")
    parser.add_argument("--pairs", nargs="*", default=list(PAIRS))
    parser.add_argument("--only", nargs="*", help="methods to run")
    args = parse(parser, argv)

    sf.settings.verbosity = "error"
    model = load_model(args.model)
    methods = {name: m for name, m in (ours(model) | peers()).items() if args.only is None or name in args.only}
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    rows: list[dict[str, Any]] = []
    for pair in args.pairs:
        for seed in seeds:
            read = cache(partial(read_task, args.data, pair, model.genes, seed))
            for name, method in methods.items():
                path = args.cache / f"{args.weights}.{PAIRS[pair][0]}.{seed}.{name}.json"
                rows += kept(path, partial(scored, read, pair, seed, name, method))
            path = args.cache / f"{args.weights}.{PAIRS[pair][0]}.{seed}.{NO_ERROR}.json"
            rows += kept(path, partial(without_error, read, pair, seed))
    table = pd.DataFrame(rows)
    head = (
        f"# Imputation of genes in spatial data\n\n`{args.command}`; hold-outs {', '.join(map(str, seeds))}.\n\n"
        "Mean ± standard deviation over hold-outs of up to 100 genes, on log1p counts; methods that take long have one "
        "hold-out only. Library size alone is a constant share of every spot's counts.\n"
    )
    pages = [head, *tables(table)]
    results = about(args, "scvi-tools", "scikit-learn", *(["tangram-sc"] if "Tangram" in methods else []))
    write_results(args.out, results | {"seeds": [*seeds], "settings": SETTINGS, "rows": rows}, pages, rows=table)
    print("\n".join(pages))
