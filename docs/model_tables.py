"""Tables of the pages of models: their weights and what these can do, and measured scores of verb and model."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any, NamedTuple

from scfoundry.model import _capabilities as capabilities
from scfoundry.model import list_pretrained, load_pretrained
from scfoundry.model._pretrained import DEFAULTS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["write_tables"]

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
ABILITIES = {
    capabilities.Embeds: "embeds cells",
    capabilities.ReadsTexts: "reads texts",
    capabilities.HasGeneVectors: "gene vectors",
    capabilities.PredictsRates: "decoder of counts",
    capabilities.Tunable: "fine-tuning through its embedding",
    capabilities.AttendsToCells: "attention between cells",
    capabilities.ReplacesGenes: "cells with a replaced gene",
    capabilities.FineTunesLabels: "published fine-tuning on labels",
    capabilities.FineTunesPathways: "published fine-tuning on pathways",
    capabilities.FineTunesImputation: "published fine-tuning for imputation",
    capabilities.FineTunesPerturbations: "published training on perturbations",
}

# For every question the best of all methods that are not the verb.
BEST = "the best peer each time"

# What was asked (data set, or kind of question), method, score.
Rows = list[tuple[str, str, float]]


class Verb(NamedTuple):
    """What a verb asks of a model, and where its scores are."""

    name: str
    needs: type
    default: str = ""
    """Model whose scores stand in the file that carries the name of the verb alone."""
    file: str = ""
    score: str = ""
    peer: str = ""
    """Method of the file that the scores stand beside, or `BEST`."""
    ours: str = ""
    """Method of the file, from the name of the class and that of the weights."""
    read: Callable[[dict[str, Any]], Rows] | None = None


def _embed(found: dict[str, Any]) -> Rows:
    return [
        (data, method, mean(scores["15-NN accuracy"]))
        for data, of_data in found["data"].items()
        for method, scores in of_data["scores"].items()
    ]


def _zero_shot(found: dict[str, Any]) -> Rows:
    return [(s["task"], method, v["all"]["macro_f1"]) for s in found["scores"] for method, v in s["methods"].items()]


def _few_shot(found: dict[str, Any]) -> Rows:
    few = [s for s in found["scores"] if s["shots"] == 5]
    return [(s["task"], method, v["macro_f1"]) for s in few for method, v in s["methods"].items()]


def _annotate(found: dict[str, Any]) -> Rows:
    return [(s["split"], s["method"], s["macro_f1"]) for s in found["scores"]]


def _impute(found: dict[str, Any]) -> Rows:
    return [(s["pair"], s["method"], s["partial_pearson"]) for s in found["rows"]]


def _denoise(found: dict[str, Any]) -> Rows:
    return [(s["data"], s["method"], s["rmse"]) for s in found["scores"] if s["reading"] == "given detection"]


def _perturb(found: dict[str, Any]) -> Rows:
    table = found["scores"]
    columns = (table[name] for name in ("data", "kind", "method", "pearson_delta"))
    return [(f"{data}, {kind}", method, score or 0.0) for data, kind, method, score in zip(*columns, strict=True)]


VERBS = (
    Verb(
        "embed",
        capabilities.Embeds,
        "cellplm",
        "embed",
        "15-NN accuracy",
        "PCA",
        "{model}, one context",
        _embed,
    ),
    Verb(
        "zero_shot_annotate",
        capabilities.ReadsTexts,
        "cellnamer",
        "zero_shot_annotate",
        "macro F1",
        "markers, z by the training data",
        "{weights}",
        _zero_shot,
    ),
    Verb(
        "annotate",
        capabilities.Embeds,
        "cellplm",
        "annotate",
        "macro F1 over technologies and studies",
        "logistic regression",
        "{model}",
        _annotate,
    ),
    Verb(
        "annotate",
        capabilities.Embeds,
        "cellnamer",
        "few_shot",
        "macro F1 with 5 cells per label",
        "logistic regression on PCA",
        "{weights}",
        _few_shot,
    ),
    Verb(
        "impute_spatial",
        capabilities.Embeds,
        "cellplm",
        "impute_spatial",
        "partial Pearson correlation",
        "ridge",
        "sf.tl.impute_spatial",
        _impute,
    ),
    Verb(
        "denoise",
        capabilities.Embeds,
        "cellplm",
        "denoise",
        "RMSE given detection, lower is better",
        "kNN, k = 50",
        "{model}, fine-tuned",
        _denoise,
    ),
    Verb(
        "predict_perturbation",
        capabilities.Embeds,
        "cellplm",
        "predict_perturbation",
        "Pearson correlation of changes",
        BEST,
        "sf.tl.predict_perturbation",
        _perturb,
    ),
    Verb("retrieve", capabilities.ReadsTexts),
    Verb("identify_pathways", capabilities.Embeds),
    Verb("cell_attention", capabilities.AttendsToCells),
)


def write_tables(folder: Path) -> None:
    """Write ``scores.md``, and for every model its weights and what they can do."""
    folder.mkdir(parents=True, exist_ok=True)
    models = {name: load_pretrained(weights) for name, weights in DEFAULTS.items()}
    lines = ["| verb | score (peer) | " + " | ".join(f"`{weights}`" for weights in DEFAULTS.values()) + " |"]
    lines.append("|---" * (2 + len(models)) + "|")
    for verb in VERBS:
        link = f"{{py:func}}`{verb.name} <scfoundry.tl.{verb.name}>`"
        measured = f"{verb.score} ({verb.peer})" if verb.read else ""
        cells = [
            _scored(verb, name, type(model).__name__) if capabilities.can(model, verb.needs) else "-"
            for name, model in models.items()
        ]
        lines.append(f"| {' | '.join([link, measured, *cells])} |")
    (folder / "scores.md").write_text("\n".join(lines) + "\n")
    table = list_pretrained()
    for name, of_model in table.groupby("model"):
        lines = ["| weights | parameters | MB | licence | trained on | files |", "|---|---|---|---|---|---|"]
        for weights, row in of_model.iterrows():
            source = "in the package" if row["source"] == "shipped" else f"[by hand]({row['source']})"
            numbers = f"{row['parameters']:,} | {row['megabytes']:g}"
            trained_on = row["trained_on"] if source != "in the package" else row["trained_on"].partition(" of ")[0]
            lines.append(f"| `{weights}` | {numbers} | {row['licence']} | {trained_on} | {source} |")
        lines += ["", f"Cite: {of_model['citation'].iloc[0]}."]
        if name in models:
            able = [text for ability, text in ABILITIES.items() if capabilities.can(models[name], ability)]
            lines += ["", f"What `{DEFAULTS[name]}` can do: {', '.join(able)}."]
        (folder / f"{name}.md").write_text("\n".join(lines) + "\n")


def _scored(verb: Verb, model: str, cls: str) -> str:
    """Mean over data sets, and that of the peer over the same ones."""
    weights = DEFAULTS[model]
    path = RESULTS / (f"{verb.file}.json" if model == verb.default else f"{verb.file}.{weights}.json")
    if verb.read is None or not path.exists():
        return "not measured"
    rows = verb.read(json.loads(path.read_text()))
    ours = verb.ours.format(model=cls, weights=weights)
    own = _means(row for row in rows if row[1] == ours)
    peers = _peers(verb, rows, ours)
    shown = f"{mean(own.values()):.3f}"
    return f"{shown} ({mean(peers[data] for data in own):.3f})" if own.keys() <= peers.keys() else shown


def _peers(verb: Verb, rows: Rows, ours: str) -> dict[str, float]:
    """Score of the peer by data set."""
    if verb.peer != BEST:
        return _means(row for row in rows if row[1] == verb.peer)
    best: dict[str, float] = {}
    for method in {method for _, method, _ in rows if method != ours and not method.startswith("the same")}:
        scores = _means(row for row in rows if row[1] == method)
        best |= {data: max(score, best.get(data, score)) for data, score in scores.items()}
    return best


def _means(rows: Iterable[tuple[str, str, float]]) -> dict[str, float]:
    """Mean over seeds by data set."""
    scores = defaultdict(list)
    for data, _, score in rows:
        scores[data].append(score)
    return {data: mean(values) for data, values in scores.items()}
