"""Tables of the pages of models: their weights and what these can do, and measured scores of verb and model."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean
from typing import Any

from scfoundry.model import _capabilities as capabilities
from scfoundry.model import list_pretrained, load_pretrained
from scfoundry.model._pretrained import DEFAULTS
from scfoundry.model._verbs import VERBS

__all__ = ["write_tables"]

# A row per verb, weights and data set: score and measure, the best peer and its score.
SUMMARY = Path(__file__).parents[1] / "benchmarks" / "results" / "summary.json"
# Benchmarks by the verb that they measure, where the names differ; of those without a benchmark, nothing was measured.
MEASURES = {"few_shot": "annotate"}
ABILITIES = {
    capabilities.Embeds: "embeddings",
    capabilities.ReadsTexts: "texts",
    capabilities.HasGeneVectors: "gene vectors",
    capabilities.PredictsRates: "decoder of counts",
    capabilities.ReconstructsExpression: "reconstruction of expression",
    capabilities.Tunable: "fine-tuning through the embedding",
    capabilities.AttendsToCells: "attention between cells",
    capabilities.AttendsToGenes: "attention between genes",
    capabilities.AttendsFromCls: "attention from `<cls>`",
    capabilities.DiscriminatesTumour: "tumour or normal",
    capabilities.TokenisesPathways: "codebook of pathway tokens",
    capabilities.ReplacesGenes: "replaced genes",
    capabilities.FineTunesExpression: "fine-tuning without labels",
    capabilities.FineTunesIntegration: "fine-tuning on batches",
    capabilities.FineTunesLabels: "published fine-tuning on labels",
    capabilities.FineTunesPathways: "published fine-tuning on pathways",
    capabilities.FineTunesImputation: "published fine-tuning for imputation",
    capabilities.FineTunesPerturbations: "published training on perturbations",
}


def write_tables(folder: Path) -> None:
    """Write ``scores.md``, and for every model its weights and what they can do."""
    folder.mkdir(parents=True, exist_ok=True)
    models = {name: load_pretrained(weights) for name, weights in DEFAULTS.items()}
    (folder / "scores.md").write_text(_scores(models))
    for name, model in models.items():
        able = ", ".join(text for ability, text in ABILITIES.items() if capabilities.can(model, ability))
        (folder / f"{name}.md").write_text(f"{_weights(name)}\n\nWhat `{DEFAULTS[name]}` has: {able}.\n")


def _scores(models: dict[str, Any]) -> str:
    """A row per benchmark, a column per model."""
    rows = json.loads(SUMMARY.read_text())["rows"] if SUMMARY.exists() else []
    lines = [f"| verb | score | {' | '.join(f'`{weights}`' for weights in DEFAULTS.values())} |"]
    lines.append("|---" * (len(models) + 2) + "|")
    for benchmark in [*VERBS, *MEASURES]:
        verb = MEASURES.get(benchmark, benchmark)
        of_verb = [row for row in rows if row["verb"] == benchmark]
        # Where data sets differ in what they can be measured by, the first measure.
        measure = of_verb[0]["measure"] if of_verb else ""
        of_verb = [row for row in of_verb if row["measure"] == measure]
        cells = [
            _cell([row for row in of_verb if row["model"] == DEFAULTS[name]])
            if capabilities.can(model, VERBS[verb])
            else "-"
            for name, model in models.items()
        ]
        link = f"{{py:func}}`{verb} <scfoundry.tl.{verb}>`"
        lines.append(f"| {' | '.join([link, measure, *cells])} |")
    return "\n".join(lines) + "\n"


def _cell(rows: list[dict[str, Any]]) -> str:
    """Mean over data sets, and that of the best peer of each."""
    if not rows:
        return "not measured"
    ours, peers = mean(row["score"] for row in rows), [row["peer_score"] for row in rows]
    return f"{ours:.3f}" if None in peers else f"{ours:.3f} ({mean(peers):.3f})"


def _weights(name: str) -> str:
    """All weights of a model."""
    table = list_pretrained()
    table = table[table["model"] == name]
    lines = ["| weights | parameters | MB | licence | trained on | files |", "|---|---|---|---|---|---|"]
    for weights, row in table.iterrows():
        shipped = row["source"] == "shipped"
        # The card of weights that ship lists the data sets.
        trained_on = row["trained_on"].partition(" of ")[0] if shipped else row["trained_on"]
        source = "in the package" if shipped else f"[by hand]({row['source']})"
        numbers = f"{row['parameters']:,} | {row['megabytes']:g}"
        lines.append(f"| `{weights}` | {numbers} | {row['licence']} | {trained_on} | {source} |")
    return "\n".join([*lines, "", f"Cite: {table['citation'].iloc[0]}."])
