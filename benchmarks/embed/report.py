"""Scores as a markdown table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.reporting import markdown_table, mean_and_spread
from scfoundry.tasks.benchmarking.scib import AGGREGATES, BATCH, BIO

if TYPE_CHECKING:
    from collections.abc import Mapping

    from benchmarks.embed.scores import Scores

__all__ = ["score_table"]

QUICK = (
    "15-NN accuracy",
    "cross-batch 15-NN accuracy",
    "Leiden ARI",
    "Leiden NMI",
    "best Leiden ARI",
    "best Leiden NMI",
    "silhouette label",
    "silhouette batch",
)
SCORES = (*AGGREGATES, *BIO, *BATCH, *(score for score in QUICK if score not in BIO))


def score_table(title: str, scores: Mapping[str, Scores]) -> str:
    """One column per embedding, one row per score; mean ± standard deviation where there are several values."""
    rows = [
        (
            f"**{name}**" if name in AGGREGATES else name,
            *(mean_and_spread(of_embedding[name]) for of_embedding in scores.values()),
        )
        for name in SCORES
        if all(name in of_embedding for of_embedding in scores.values())
    ]
    return markdown_table(title, ["", *scores], rows)
