"""Scores as a markdown table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from quality.scores import Scores

__all__ = ["markdown_table"]


def markdown_table(title: str, columns: Sequence[str], rows: Mapping[str, Scores]) -> str:
    """One row per embedding; mean ± standard deviation where there are several values."""
    present = [column for column in columns if any(column in scores for scores in rows.values())]
    lines = [
        f"### {title}",
        "",
        "| embedding | " + " | ".join(present) + " |",
        "|---" * (len(present) + 1) + "|",
        *(f"| {name} | " + " | ".join(_cell(scores.get(c)) for c in present) + " |" for name, scores in rows.items()),
    ]
    return "\n".join(lines) + "\n"


def _cell(values: list[float] | None) -> str:
    if not values:
        return "-"
    mean, spread = float(np.mean(values)), float(np.std(values))
    return f"{mean:.3f} ± {spread:.3f}" if spread >= 5e-4 else f"{mean:.3f}"
