"""Tables of the imputation benchmark."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.impute_spatial.tasks import PAIRS
from benchmarks.reporting import markdown_table, mean_and_spread

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
    by_method = dict(list(rows.groupby("method", sort=False)))
    complete = {name: runs for name, runs in by_method.items() if runs["pair"].nunique() == len(PAIRS)}
    pages = []
    for score, title in TITLES.items():
        body = [
            [
                name,
                *(mean_and_spread(runs.loc[runs["pair"] == pair, score]) for pair in PAIRS),
                f"{_over_pairs(runs, score):.3f}" if name in complete else "-",
            ]
            for name, runs in by_method.items()
        ]
        pages.append(markdown_table(title, ["method", *PAIRS, "mean"], body))
    columns = [*SCORES, "seconds"]
    body = [
        [name, runs["seed"].nunique(), *(f"{_over_pairs(runs, column):.3f}" for column in columns)]
        for name, runs in complete.items()
    ]
    pages.append(markdown_table("All scores, means over the four sets", ["method", "hold-outs", *columns], body))
    return pages


def _over_pairs(runs: pd.DataFrame, score: str) -> float:
    return runs.groupby("pair")[score].mean().mean()
