"""Tables of the denoising benchmark."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.reporting import markdown_table, mean_and_spread

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["protein_table", "score_tables"]

HIDDEN = ("rmse", "mae", "pearson", "cosine")
WHOLE = tuple(f"{name}_all" for name in HIDDEN)
COLUMNS = ("RMSE", "MAE", "Pearson", "cosine")


def score_tables(scores: pd.DataFrame) -> list[str]:
    """Hidden counts in both readings and the whole matrix, per data set; mean and deviation over masks."""
    tables = []
    for data, of_data in scores.groupby("data", sort=False):
        for reading, which, title in (
            ("plain", HIDDEN, "hidden counts, plain expectation"),
            ("given detection", HIDDEN, "hidden counts, expectation given detection"),
            ("plain", WHOLE, "whole matrix, plain expectation"),
        ):
            runs = of_data[of_data["reading"] == reading]
            rows = [
                (method, *(_over_seeds(of_method[name]) for name in which))
                for method, of_method in runs.groupby("method", sort=False)
            ]
            tables.append(markdown_table(f"{data}: {title}", ["method", *COLUMNS], rows))
    return tables


def protein_table(pairs: pd.DataFrame) -> str:
    """Correlations with surface proteins, Spearman / Pearson, and their mean over pairs."""
    names = list(pairs["pair"].unique())
    rows = []
    for method, runs in pairs.groupby("method", sort=False):
        means = runs.groupby("seed")[["spearman", "pearson"]].mean()
        by_pair = runs.groupby("pair")[["spearman", "pearson"]].mean()
        cells = [f"{by_pair.loc[name, 'spearman']:.3f} / {by_pair.loc[name, 'pearson']:.3f}" for name in names]
        rows.append((method, *cells, f"{_over_seeds(means['spearman'])} / {_over_seeds(means['pearson'])}"))
    return markdown_table("Surface proteins, Spearman / Pearson", ["method", *names, "mean"], rows)


def _over_seeds(values: pd.Series) -> str:
    return mean_and_spread(values, digits=4, ddof=1)
