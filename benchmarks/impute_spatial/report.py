"""Tables of the imputation benchmark."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.impute_spatial.tasks import PAIRS
from benchmarks.reporting import markdown_table, score_table

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["SCORES", "tables"]

SCORES = ("partial_pearson", "pearson", "spearman", "cosine", "rmse", "mae", "structure")
TITLES = {
    "partial_pearson": "Partial Pearson correlation given library size",
    "pearson": "Pearson correlation",
    "cosine": "Cosine",
}


def tables(rows: pd.DataFrame) -> list[str]:
    """Means and standard deviations over hold-outs: one table of the sets per score, one of all scores."""
    pages = [score_table(title, rows, score, columns="pair") for score, title in TITLES.items()]
    columns = [*SCORES, "seconds"]
    body = [
        [
            method,
            runs["seed"].nunique(),
            *(f"{x:.3f}".replace("nan", "-") for x in runs.groupby("pair")[columns].mean().mean()),
        ]
        for method, runs in rows.groupby("method", sort=False)
        if runs["pair"].nunique() == len(PAIRS) and runs[list(SCORES)].notna().all(axis=None)
    ]
    return [*pages, markdown_table("All scores, means over the four sets", ["method", "hold-outs", *columns], body)]
