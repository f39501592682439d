"""Tables of the annotation benchmark."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.reporting import markdown_table, mean_and_spread

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

__all__ = ["SCORES", "score_table", "size_table"]

SCORES = ("macro_f1", "macro_precision", "accuracy")


def score_table(rows: pd.DataFrame, score: str) -> str:
    """One row per method, one column per split; mean ± standard deviation over seeds where they differ."""
    splits = list(rows["split"].unique())
    body = []
    for method, runs in rows.groupby("method", sort=False):
        by_split = {split: runs.loc[runs["split"] == split, score] for split in splits}
        mean = runs.groupby("split")[score].mean().mean()
        body.append((method, *(mean_and_spread(values) for values in by_split.values()), f"{mean:.3f}"))
    return markdown_table(score.replace("_", " "), ["", *splits, "mean"], body)


def size_table(sizes: Sequence[dict[str, int | str]]) -> str:
    """Cells, labels and genes of every split."""
    return markdown_table("splits", list(sizes[0]), [tuple(size.values()) for size in sizes])
