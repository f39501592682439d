"""Tables of the pages of models: weights from the registry, and which verbs a model serves, with measured scores."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean
from typing import Any

from scfoundry.model import list_pretrained, load_pretrained
from scfoundry.model._capabilities import AttendsToCells, Embeds, ReadsTexts, can
from scfoundry.model._pretrained import DEFAULTS

__all__ = ["write_tables"]

SUMMARY = Path(__file__).parents[1] / "benchmarks" / "results" / "summary.json"
VERBS: dict[str, type] = {
    "embed": Embeds,
    "zero_shot_annotate": ReadsTexts,
    "retrieve": ReadsTexts,
    "annotate": Embeds,
    "identify_pathways": Embeds,
    "impute_spatial": Embeds,
    "denoise": Embeds,
    "predict_perturbation": Embeds,
    "cell_attention": AttendsToCells,
}


def write_tables(folder: Path) -> None:
    """Write ``scores.md`` and a header per model."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = json.loads(SUMMARY.read_text()) if SUMMARY.exists() else []
    models = {name: load_pretrained(weights) for name, weights in DEFAULTS.items()}
    head = " | ".join(f"`{weights}`" for weights in DEFAULTS.values())
    lines = [f"| verb | {head} |", "|---" * (len(models) + 1) + "|"]
    for verb, capability in VERBS.items():
        cells = [
            _cell(rows, verb, DEFAULTS[name]) if can(model, capability) else "cannot" for name, model in models.items()
        ]
        lines.append(f"| {{py:func}}`sf.tl.{verb} <scfoundry.tl.{verb}>` | {' | '.join(cells)} |")
    (folder / "scores.md").write_text("\n".join(lines) + "\n")
    for name in models:
        (folder / f"{name}.md").write_text(_weights(name))


def _cell(rows: list[dict[str, Any]], verb: str, weights: str) -> str:
    """Mean over data sets of the headline measure, ours and that of the peer."""
    own = [row for row in rows if (row["verb"], row["model"]) == (verb, weights)]
    if not own:
        return "not measured"
    own = [row for row in own if row["measure"] == own[0]["measure"]]
    ours, peers = mean(row["score"] for row in own), mean(row["peer_score"] for row in own)
    names = sorted({row["peer"] for row in own})
    peer = names[0] if len(names) == 1 else "best simple peer"
    return f"{own[0]['measure']} {ours:.3f}; {peer} {peers:.3f}"


def _weights(name: str) -> str:
    """All weights of a model."""
    table = list_pretrained()
    table = table[table["model"] == name]
    lines = ["| weights | parameters | MB | licence | trained on | files |", "|---|---|---|---|---|---|"]
    for weights, row in table.iterrows():
        source = "in the package" if row["source"] == "shipped" else f"[by hand]({row['source']})"
        numbers = f"{row['parameters']:,} | {row['megabytes']:g}"
        lines.append(f"| `{weights}` | {numbers} | {row['licence']} | {row['trained_on']} | {source} |")
    return "\n".join([*lines, "", f"Cite: {table['citation'].iloc[0]}.", ""])
