"""Tables of perturbation scores."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.command import NO_ERROR
from benchmarks.reporting import markdown_table

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd

__all__ = ["SCORES", "by_condition", "by_method", "signal_table", "tables"]

SCORES = ("rmse", "rmse_nonzero", "rmse_top", "pearson_delta", "pearson_delta_top", "ceiling")


def by_condition(rows: pd.DataFrame) -> dict[str, list]:
    """Mean over seeds of every condition and method, by column; `None` where a correlation is never defined."""
    keys = ["data", "kind", "group", "perturbation", "method"]
    means = rows.groupby(keys, sort=False)[list(SCORES)].mean().round(4)
    table = means.assign(n_seeds=rows.groupby(keys, sort=False).size()).reset_index()
    return table.astype(object).where(table.notna(), None).to_dict("list")


def by_method(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean over conditions, one row per data set, kind of condition, method and seed.

    A change that is constant has no correlation, and counts as one of 0.
    """
    scored = rows.fillna({"pearson_delta": 0.0, "pearson_delta_top": 0.0})
    keys = ["data", "kind", "method", "seed"]
    means = scored.groupby(keys, sort=False)[list(SCORES)].mean()
    return means.assign(n_conditions=scored.groupby(keys, sort=False).size()).reset_index()


def tables(rows: pd.DataFrame, published: str) -> Iterator[str]:
    """One table per data set and kind of condition: mean over conditions and seeds, the spread over seeds beside it.

    A method that was run on few seeds, ``published``, stands in tables of its own, beside the others on these seeds.
    """
    costly = rows["method"] == published
    yield from _tables(rows[~costly])
    if costly.any():
        both = rows.merge(rows.loc[costly, ["data", "kind", "seed"]].drop_duplicates())
        yield "The network trained, as published; the others on the same seeds.\n"
        yield from _tables(both)


def _tables(rows: pd.DataFrame) -> Iterator[str]:
    columns = ["Pearson of change", "over top 20", "RMSE", "over non-zero", "over top 20"]
    order = ("pearson_delta", "pearson_delta_top", "rmse", "rmse_nonzero", "rmse_top")
    for (data, kind), part in rows.groupby(["data", "kind"], sort=False):
        scored = part.fillna({"pearson_delta": 0.0, "pearson_delta_top": 0.0})
        body = []
        for method, found in scored.groupby("method", sort=False):
            spread = found.groupby("seed")["pearson_delta"].mean().std(ddof=0)
            first, *others = (found[name].mean() for name in order)
            body.append((method, f"{first:.3f} ± {spread:.3f}", *(f"{value:.3f}" for value in others)))
        n = part[["group", "perturbation"]].drop_duplicates().shape[0]
        title = f"{data}: {kind}; {n} conditions, {part['seed'].nunique()} seeds"
        yield markdown_table(title, ["method", *columns], [*body, _ceiling(part, len(columns))])


def _ceiling(part: pd.DataFrame, n_columns: int) -> tuple[str, ...]:
    """The row of a prediction without error."""
    return (NO_ERROR, f"{part['ceiling'].mean():.3f}", *[""] * (n_columns - 1))


def signal_table(rows: pd.DataFrame) -> str:
    """What a prediction without error would have, condition by condition."""
    once = rows.groupby(["data", "group", "perturbation"], sort=False)["ceiling"].mean().reset_index()
    body = []
    for (data, group), part in once.groupby(["data", "group"], sort=False):
        clear = part.loc[part["ceiling"] >= 0.5, "perturbation"]
        body.append(
            (data, group, len(part), f"{part['ceiling'].mean():.2f}", len(clear), f"{part['ceiling'].max():.2f}")
        )
    columns = ["data", "group", "conditions", "mean", "of them at least 0.5", "largest"]
    return markdown_table(
        "Correlation that a prediction without error would have, by the noise of the cells", columns, body
    )
