"""How well genes are imputed that a spatial panel lacks, beside what a user would otherwise take.

    python benchmarks/imputation.py DATA_FOLDER

Up to 100 genes of a spatial set are held out by the published strata of sparsity, once per seed, and predicted from the
rest and a single-cell reference. The weights have seen none of the spatial sets. Results are kept per method, so that a
run that was interrupted goes on; delete the CSV file to begin anew.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from imputation.peers import PEERS, SETTINGS
from imputation.tasks import PAIRS, Task, read_task
from reporting import markdown_table, surroundings, write_results

import scfoundry as sf

if TYPE_CHECKING:
    from numpy.typing import NDArray

RESULTS = Path(__file__).parent / "results" / "imputation.json"
PACKAGE_OF = {"Tangram": "tangram", "gimVI": "scvi"}
OURS: dict[str, dict[str, Any]] = {
    "sf.tl.impute_spatial": {},
    "composition alone": {"evidence": ["library", "composition"]},
    "gene vectors alone": {"evidence": ["library", "gene_vectors"]},
    "decoder alone": {"evidence": ["library", "decoder"]},
    "fine_tune=True": {"fine_tune": True},
    "decoder alone, fine-tuned": {"fine_tune": True, "evidence": ["library", "decoder"]},
}
SCORES = ("partial_pearson", "pearson", "spearman", "cosine", "rmse", "mae", "structure")


def impute(task: Task, model: sf.model.CellPLM, **how: Any) -> tuple[NDArray[np.float32], dict[str, float]]:
    """Run the verb; also what it says of itself."""
    spots = task.spots.copy()
    sf.tl.impute_spatial(spots, task.cells, genes=task.targets, model=model, context_key="section", **how)
    result = spots.uns["imputed"]
    told = {f"weight_{name}": value for name, value in result["weights"].items()}
    told |= {f"expected_{name}": values.mean() for name, values in result["confidence"].items()}
    return spots.obsm["imputed"].to_numpy(), told


def scored(task: Task, predicted: NDArray[np.float32]) -> dict[str, float]:
    """Means over target genes; a gene that is constant in the prediction has no correlation, which counts as 0."""
    by_gene = sf.metrics.imputation(
        task.truth,
        predicted,
        log1p=True,
        library=task.library,
        positions=task.spots.obsm["spatial"],
        sections=task.sections,
    )
    varies = np.ptp(task.truth, axis=0) > 0
    means = by_gene.loc[varies, list(SCORES)].fillna(0).mean()
    return means.to_dict() | {"n_genes": int(varies.sum())}


def run(args: argparse.Namespace, table: Path) -> pd.DataFrame:
    """Score every method on every hold-out that is not in the table yet."""
    done = pd.read_csv(table) if table.exists() else pd.DataFrame(columns=["pair", "seed", "method"])
    done = done.drop(columns=[name for name in done if name == "command" or name.startswith("version ")])
    model = sf.model.load_pretrained(args.weights)
    methods = {name: name for name in [*OURS, *PEERS] if args.only is None or name in args.only}
    for name in [n for n in methods if n in PACKAGE_OF and importlib.util.find_spec(PACKAGE_OF[n]) is None]:
        print(f"{name} is not installed and left out", file=sys.stderr)
        del methods[name]
    for pair in args.pairs:
        for seed in range(args.first_seed, args.first_seed + args.seeds):
            have = set(done.loc[(done["pair"] == pair) & (done["seed"] == seed), "method"])
            missing = [name for name in methods if name not in have]
            task = read_task(args.data, pair, model, seed) if missing else None
            for name in missing:
                start = time.perf_counter()
                told: dict[str, float] = {}
                if name in OURS:
                    predicted, told = impute(task, model, **OURS[name])
                else:
                    predicted = PEERS[name](task, seed)
                row = {"pair": pair, "seed": seed, "method": name, **scored(task, predicted), **told}
                row["seconds"] = round(time.perf_counter() - start, 1)
                done = pd.concat([done, pd.DataFrame([row])], ignore_index=True)
                table.parent.mkdir(parents=True, exist_ok=True)
                done.to_csv(table, index=False, float_format="%.5g")
                print(f"{pair}, {seed}, {name}: partial {row['partial_pearson']:.4f}, cosine {row['cosine']:.4f}")
    return done


def tables(done: pd.DataFrame) -> list[str]:
    """Means and standard deviations over hold-outs: one table of the sets, one of all scores."""
    order = [name for name in [*OURS, *PEERS] if name in set(done["method"])]
    pages = []
    for score in ("partial_pearson", "pearson", "cosine"):
        rows = []
        for name in order:
            own = done[done["method"] == name]
            cells = [_shown(own.loc[own["pair"] == pair, score]) for pair in PAIRS]
            mean = f"{own.groupby('pair')[score].mean().mean():.3f}" if own["pair"].nunique() == len(PAIRS) else "-"
            rows.append([name, *cells, mean])
        title = {"partial_pearson": "Partial Pearson correlation given library size", "pearson": "Pearson correlation"}
        pages.append(markdown_table(title.get(score, "Cosine"), ["method", *PAIRS, "mean"], rows))
    columns = [*SCORES, "seconds"]
    order = [name for name in order if done.loc[done["method"] == name, "pair"].nunique() == len(PAIRS)]
    n_seeds = done.groupby("method")["seed"].nunique()
    rows = [
        [
            name,
            n_seeds[name],
            *(f"{done[done['method'] == name].groupby('pair')[column].mean().mean():.3f}" for column in columns),
        ]
        for name in order
    ]
    pages.append(markdown_table("All scores, means over the four sets", ["method", "hold-outs", *columns], rows))
    return pages


def _shown(values: pd.Series) -> str:
    if len(values) < 2:
        return f"{values.iloc[0]:.3f}" if len(values) else "not run"
    return f"{values.mean():.3f} ± {values.std(ddof=0):.3f}"


def main() -> None:
    """Run what is asked for and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with the .h5ad files")
    parser.add_argument("--weights", default="cellplm-mini")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=11, help="11 is that of the published hold-out")
    parser.add_argument("--pairs", nargs="*", default=list(PAIRS))
    parser.add_argument("--only", nargs="*", help="methods to run")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    sf.settings.verbosity = "error"
    done = run(args, args.out.with_suffix(".csv"))
    facts = {
        "command": "python benchmarks/imputation.py DATA_FOLDER",
        "weights": args.weights,
        "seeds": sorted(done["seed"].unique().tolist()),
        "settings": SETTINGS,
        "surroundings": surroundings("scvi-tools", "scikit-learn", "tangram-sc"),
    }
    head = (
        f"# Imputation of genes in spatial data\n\n`{facts['command']}`; hold-outs (seeds) "
        f"{', '.join(map(str, facts['seeds']))}.\n\n"
        "Mean ± standard deviation over hold-outs of up to 100 genes, on log1p counts; methods that take long have one "
        "hold-out only. Library size alone is a constant share of every spot's counts.\n"
    )
    write_results(args.out, facts | {"rows": done.to_dict("records")}, [head, *tables(done)], rows=done)


if __name__ == "__main__":
    main()
