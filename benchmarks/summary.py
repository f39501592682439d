"""What every model scores at every verb, beside the best peer of the same data: one table of all result files.

    python -m benchmarks summary

The page of models in the documentation is made of it; what has no row was not measured.
"""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from benchmarks.command import NO_ERROR, RANDOM, RESULTS, TWIN, arguments, parse

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

__all__ = ["Headline", "Measured", "headlines", "measured"]

Results = dict[str, Any]
# Weights of the recipe with the scored data held out, by what their folder was called.
RECIPE_OF = dict.fromkeys(("denoise", "perturb", "held_out", "cellplm-heldout"), "cellplm-mini")
RECIPE_OF |= {"held_out_celler": "celler-mini"}
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


class Measured(NamedTuple):
    """What a result file says of a verb: scores of our method, its peers and others, by data set and seed."""

    verb: str
    measure: str
    model: str
    rows: pd.DataFrame  # ``data``, ``method``, ``score``; ``seed`` and ``seconds`` where known
    ours: str
    peers: tuple[str, ...]
    lower_is_better: bool


def annotate(results: Results) -> Iterator[Measured]:
    """Macro F1 by a reference, per split."""
    peers = ("logistic regression", "CellTypist", "CellTypist, feature selection")
    rows = pd.DataFrame(results["scores"]).rename(columns={"split": "data"})
    yield _measured("annotate", "macro F1", results, rows, "macro_f1", ours=rows["method"].iloc[0], peers=peers)


def few_shot(results: Results) -> Iterator[Measured]:
    """Macro F1 after five labelled cells per type."""
    runs = [run for run in results["scores"] if run["shots"] == SHOTS]
    rows = _by_method(runs, lambda found: found["macro_f1"])
    ours, peers = rows["method"].iloc[0], ("logistic regression on PCA",)
    yield _measured("few_shot", f"macro F1, {SHOTS} shots", results, rows, "score", ours=ours, peers=peers)


def zero_shot_annotate(results: Results) -> Iterator[Measured]:
    """Macro F1 on studies that were left out, per data set and granularity."""
    rows = _by_method(results["scores"], lambda found: found["all"]["macro_f1"])
    ours, *others = rows["method"].unique()
    peers = [name for name in others if name == "logistic regression" or name.startswith("markers")]
    yield _measured("zero_shot_annotate", "macro F1", results, rows, "score", ours=ours, peers=peers)


def embed(results: Results) -> Iterator[Measured]:
    """The total of scib-metrics; bio conservation where there is one batch."""
    for measure, with_batches in (("total", True), ("bio conservation", False)):
        rows = _scib(results, measure, with_batches=with_batches)
        if len(rows):
            ours, peers = rows["method"].iloc[0], ("PCA", "scVI")
            yield _measured("embed", f"scib {measure}", results, rows, "score", ours=ours, peers=peers)


def integrate(results: Results) -> Iterator[Measured]:
    """The total of scib-metrics after fine-tuning, of both models."""
    rows, peers, start = _scib(results, "total", with_batches=True), ("PCA", "Harmony", "scVI"), "sf.tl.integrate, "
    for ours in (name for name in rows["method"].unique() if name.startswith(start)):
        option = "--celler" if ours == f"{start}Celler" else "--model"
        yield _measured("integrate", "scib total", results, rows, "score", ours=ours, peers=peers, option=option)


def impute_spatial(results: Results) -> Iterator[Measured]:
    """Correlation given library size, per pair of spots and reference."""
    peers = ("ridge", "kNN on aligned PCA", "Tangram", "gimVI")
    rows, ours = pd.DataFrame(results["rows"]).rename(columns={"pair": "data"}), "sf.tl.impute_spatial"
    yield _measured("impute_spatial", "partial Pearson", results, rows, "partial_pearson", ours=ours, peers=peers)


def denoise(results: Results) -> Iterator[Measured]:
    """Error on hidden counts, plain expectation, per data set."""
    peers, rows = ("kNN, k = 50", "kNN of logs, k = 50", "scVI"), pd.DataFrame(results["scores"])
    rows, measure = rows[rows["reading"] == "plain"], "RMSE, lower is better"
    ours = next(name for name in rows["method"].unique() if name.endswith("fine-tuned"))
    yield _measured("denoise", measure, results, rows, "rmse", ours=ours, peers=peers, lower_is_better=True)


def predict_perturbation(results: Results) -> Iterator[Measured]:
    """Correlation of predicted and measured change; a constant change counts as 0."""
    rows = pd.DataFrame(results["scores"]).fillna({"pearson_delta": 0.0})
    rows["data"] += ": " + rows["kind"]
    keys = ["data", "group", "perturbation"]
    best = rows.drop_duplicates(keys).assign(method=NO_ERROR, pearson_delta=lambda found: found["ceiling"])
    rows = pd.concat([rows, best])
    ours = "sf.tl.predict_perturbation"
    peers = [name for name in rows["method"].unique() if not name.startswith((ours, "the same", TWIN, NO_ERROR))]
    yield _measured("predict_perturbation", "Pearson of change", results, rows, "pearson_delta", ours=ours, peers=peers)


def drug_response(results: Results) -> Iterator[Measured]:
    """Correlation within drugs on lines that were left out."""
    rows = pd.DataFrame(results["scores"])
    rows, ours = rows[rows["split"] == "cold_cell"], "sf.tl.drug_response"
    peers, score = [name for name in rows["method"].unique() if name != ours], "pearson_per_drug"
    yield _measured("drug_response", "Pearson per drug", results, rows, score, ours=ours, peers=peers)


VERBS: dict[str, Callable[[Results], Iterator[Measured]]] = {
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


def measured() -> Iterator[Measured]:
    """Of all result files, verb by verb; the default model of a verb first."""
    for verb, of_verb in VERBS.items():
        for path in [RESULTS / f"{verb}.json", *sorted(RESULTS.glob(f"{verb}.*.json"))]:
            if path.exists():
                yield from of_verb(json.loads(path.read_text()))


def headlines() -> list[Headline]:
    """Our method beside the best peer, per file and data set."""
    trained = (of_file for of_file in measured() if not of_file.model.startswith(RANDOM))
    found = [headline for of_file in trained for headline in _beside(of_file)]
    # Peers of a data set are run once, with the default model.
    peers = {(row.verb, row.data): row[-2:] for row in found if row.peer is not None}
    return [Headline(*row[:-2], *peers.get((row.verb, row.data), row[-2:])) for row in found]


def _scib(results: Results, measure: str, *, with_batches: bool) -> pd.DataFrame:
    return pd.DataFrame(
        {"data": data, "method": method, "score": value, "seed": seed}
        for data, found in results["data"].items()
        if bool(found["batch_key"]) == with_batches
        for method, scores in found["scores"].items()
        for seed, value in enumerate(scores[measure])
    )


def _by_method(runs: Sequence[dict[str, Any]], score: Callable[[dict[str, Any]], float]) -> pd.DataFrame:
    return pd.DataFrame(
        {"data": run["task"], "method": method, "score": score(found), "seed": run["seed"]}
        for run in runs
        for method, found in run["methods"].items()
    )


def _measured(
    verb: str,
    measure: str,
    results: Results,
    rows: pd.DataFrame,
    score: str,
    *,
    ours: str,
    peers: Collection[str],
    lower_is_better: bool = False,
    option: str = "--model",
) -> Measured:
    words = shlex.split(results["command"])
    model = words[words.index(option) + 1]
    scored = rows.assign(score=rows[score])
    return Measured(verb, measure, RECIPE_OF.get(model, model), scored, ours, tuple(peers), lower_is_better)


def _beside(of_file: Measured) -> Iterator[Headline]:
    """Means over seeds, per data set; peers that were not run leave no trace."""
    for data, part in of_file.rows.groupby("data", sort=False):
        means = part.groupby("method")["score"].mean()
        if of_file.ours not in means:
            continue
        others = means[[name for name in of_file.peers if name in means]].sort_values(ascending=of_file.lower_is_better)
        peer, peer_score = (others.index[0], round(float(others.iloc[0]), 4)) if len(others) else (None, None)
        own = round(float(means[of_file.ours]), 4)
        yield Headline(of_file.verb, of_file.model, str(data), of_file.measure, own, peer, peer_score)


def main(argv: Sequence[str] | None = None) -> None:
    """Collect and write."""
    args = parse(arguments(__doc__, "summary", data=False), argv)
    rows = [headline._asdict() for headline in headlines()]
    args.out.write_text(json.dumps({"command": args.command, "rows": rows}, indent=1) + "\n")
    print(pd.DataFrame(rows).to_string(index=False))
