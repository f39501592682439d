"""What every model scores at every verb, beside the best peer of the same data: one table of all result files.

    python -m benchmarks summary

The page of models in the documentation is made of it; what has no row was not measured.
"""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from benchmarks.command import RESULTS, arguments, parse

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

__all__ = ["Headline", "headlines"]

Results = dict[str, Any]
# Weights of the recipe with the scored data held out, by what their folder was called.
RECIPE_OF = dict.fromkeys(("denoise", "perturb", "held_out", "cellplm-heldout"), "cellplm-mini")
SHOTS = 5


class Headline(NamedTuple):
    """The score of a model at a verb on one data set, and that of the best peer."""

    verb: str
    model: str
    data: str
    measure: str
    score: float
    peer: str | None
    peer_score: float | None


def annotate(results: Results) -> Iterator[Headline]:
    """Macro F1 by a reference, per split."""
    peers = ("logistic regression", "CellTypist", "CellTypist, feature selection")
    rows = pd.DataFrame(results["scores"]).rename(columns={"split": "data"})
    return _beside("annotate", "macro F1", results, rows, "macro_f1", ours=rows["method"].iloc[0], peers=peers)


def few_shot(results: Results) -> Iterator[Headline]:
    """Macro F1 after five labelled cells per type."""
    runs = [run for run in results["scores"] if run["shots"] == SHOTS]
    rows = _by_method(runs, lambda found: found["macro_f1"])
    ours, peers = rows["method"].iloc[0], ("logistic regression on PCA",)
    return _beside("few_shot", f"macro F1, {SHOTS} shots", results, rows, "score", ours=ours, peers=peers)


def zero_shot_annotate(results: Results) -> Iterator[Headline]:
    """Macro F1 on studies that were left out, per data set and granularity."""
    rows = _by_method(results["scores"], lambda found: found["all"]["macro_f1"])
    ours, *others = rows["method"].unique()
    peers = [name for name in others if name == "logistic regression" or name.startswith("markers")]
    return _beside("zero_shot_annotate", "macro F1", results, rows, "score", ours=ours, peers=peers)


def embed(results: Results) -> Iterator[Headline]:
    """The total of scib-metrics; bio conservation where there is one batch."""
    for measure, needs_batches in (("total", True), ("bio conservation", False)):
        rows = pd.DataFrame(
            {"data": data, "method": method, "score": value}
            for data, found in results["data"].items()
            if bool(found["batch_key"]) == needs_batches
            for method, scores in found["scores"].items()
            for value in scores[measure]
        )
        if len(rows):
            ours, peers = rows["method"].iloc[0], ("PCA", "scVI")
            yield from _beside("embed", f"scib {measure}", results, rows, "score", ours=ours, peers=peers)


def integrate(results: Results) -> Iterator[Headline]:
    """The total of scib-metrics of the model fine-tuned on batches, beside what was not."""
    rows = pd.DataFrame(
        {"data": data, "method": method, "score": value}
        for data, found in results["data"].items()
        for method, scores in found["scores"].items()
        for value in scores["total"]
    )
    ours = next(name for name in rows["method"] if name.startswith("sf.tl.integrate"))
    peers = [name for name in rows["method"].unique() if name in ("PCA", "Harmony", "scVI") or "sf.tl.embed" in name]
    return _beside("integrate", "scib total", results, rows, "score", ours=ours, peers=peers)


def impute_spatial(results: Results) -> Iterator[Headline]:
    """Correlation given library size, per pair of spots and reference."""
    peers = ("ridge", "kNN on aligned PCA", "Tangram", "gimVI")
    rows, ours = pd.DataFrame(results["rows"]).rename(columns={"pair": "data"}), "sf.tl.impute_spatial"
    return _beside("impute_spatial", "partial Pearson", results, rows, "partial_pearson", ours=ours, peers=peers)


def denoise(results: Results) -> Iterator[Headline]:
    """Error on hidden counts, plain expectation, per data set."""
    peers, rows = ("kNN, k = 50", "kNN of logs, k = 50", "scVI"), pd.DataFrame(results["scores"])
    rows, measure = rows[rows["reading"] == "plain"], "RMSE, lower is better"
    ours = next(name for name in rows["method"].unique() if name.endswith("fine-tuned"))
    return _beside("denoise", measure, results, rows, "rmse", ours=ours, peers=peers, lower_is_better=True)


def predict_perturbation(results: Results) -> Iterator[Headline]:
    """Correlation of predicted and measured change; a constant change counts as 0."""
    rows = pd.DataFrame(results["scores"]).fillna({"pearson_delta": 0.0})
    rows["data"] += ": " + rows["kind"]
    ours = "sf.tl.predict_perturbation"
    peers = [name for name in rows["method"].unique() if not name.startswith((ours, "the same"))]
    return _beside("predict_perturbation", "Pearson of change", results, rows, "pearson_delta", ours=ours, peers=peers)


def drug_response(results: Results) -> Iterator[Headline]:
    """Correlation within drugs on lines that were left out."""
    rows = pd.DataFrame(results["scores"])
    rows, ours = rows[rows["split"] == "cold_cell"], "sf.tl.drug_response"
    peers, score = [name for name in rows["method"].unique() if name != ours], "pearson_per_drug"
    return _beside("drug_response", "Pearson per drug", results, rows, score, ours=ours, peers=peers)


HEADLINES: dict[str, Callable[[Results], Iterator[Headline]]] = {
    of_verb.__name__: of_verb
    for of_verb in (
        embed,
        integrate,
        annotate,
        few_shot,
        zero_shot_annotate,
        impute_spatial,
        denoise,
        predict_perturbation,
        drug_response,
    )
}


def headlines() -> list[Headline]:
    """Of all result files, verb by verb; the default model of a verb first."""
    found: list[Headline] = []
    for verb, of_verb in HEADLINES.items():
        for path in [RESULTS / f"{verb}.json", *sorted(RESULTS.glob(f"{verb}.*.json"))]:
            found += of_verb(json.loads(path.read_text())) if path.exists() else []
    # Peers of a data set are run once, with the default model.
    peers = {(row.verb, row.data): row[-2:] for row in found if row.peer is not None}
    return [Headline(*row[:-2], *peers.get((row.verb, row.data), row[-2:])) for row in found]


def _by_method(runs: Sequence[dict[str, Any]], score: Callable[[dict[str, Any]], float]) -> pd.DataFrame:
    return pd.DataFrame(
        {"data": run["task"], "method": method, "score": score(found)}
        for run in runs
        for method, found in run["methods"].items()
    )


def _beside(
    verb: str,
    measure: str,
    results: Results,
    rows: pd.DataFrame,
    score: str,
    *,
    ours: str,
    peers: Collection[str],
    lower_is_better: bool = False,
) -> Iterator[Headline]:
    """Means over seeds, per data set; peers that were not run leave no trace."""
    words = shlex.split(results["command"])
    model = words[words.index("--model") + 1]
    for data, part in rows.groupby("data", sort=False):
        means = part.groupby("method")[score].mean()
        if ours not in means:
            continue
        others = means[[name for name in peers if name in means]].sort_values(ascending=lower_is_better)
        peer, peer_score = (others.index[0], round(float(others.iloc[0]), 4)) if len(others) else (None, None)
        own = round(float(means[ours]), 4)
        yield Headline(verb, RECIPE_OF.get(model, model), str(data), measure, own, peer, peer_score)


def main(argv: Sequence[str] | None = None) -> None:
    """Collect and write."""
    args = parse(arguments(__doc__, "summary", data=False), argv)
    rows = [headline._asdict() for headline in headlines()]
    args.out.write_text(json.dumps({"command": args.command, "rows": rows}, indent=1) + "\n")
    print(pd.DataFrame(rows).to_string(index=False))
