"""Tables of drug response."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.reporting import markdown_table, mean_and_spread

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd

__all__ = ["tables"]

COLUMNS = {
    "pearson_per_drug": "Pearson per drug",
    "pearson_residual": "Pearson beyond means",
    "pearson": "Pearson overall",
    "r2": "R2",
    "rmse": "RMSE",
    "mae": "MAE",
    "spearman_per_drug": "Spearman per drug",
    "pearson_per_line": "Pearson per line",
    "seconds": "seconds",
}
WHAT = {
    "cold_cell": "a fifth of the lines left out",
    "cold_tissue": "a fifth of the tissues left out",
    "cold_drug": "a fifth of the drugs left out",
    "warm": "a tenth of the pairs left out",
}


def tables(rows: pd.DataFrame) -> Iterator[str]:
    """One table per data set and split: mean ± standard deviation over draws."""
    for (data, split), part in rows.groupby(["data", "split"], sort=False):
        body = [
            (method, *(mean_and_spread(runs[name], digits=1 if name == "seconds" else 3) for name in COLUMNS))
            for method, runs in part.groupby("method", sort=False)
        ]
        n = part["seed"].nunique()
        yield markdown_table(f"{data}: {WHAT[split]}; {n} draws", ["method", *COLUMNS.values()], body)
