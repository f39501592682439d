"""Every weights beside simple peers and twins without training, verb by verb and data set by data set, as one page.

    python -m benchmarks leaderboard

Made of the result files alone: what has no row was not measured. No data set is among what the weights in question
learned from: where it is in the corpus, they were trained by the same recipe without it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from benchmarks.command import NO_ERROR, RANDOM, RESULTS, TWIN, arguments, parse
from benchmarks.summary import Measured, measured

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["leaderboard", "standing"]

PAGE = Path(__file__).with_name("leaderboard.md")
# Our own structure without what training gave it.
TWINS = (TWIN, "from scratch", "components alone", "random matrix")
COLUMNS = ("data", "method", "score", "seeds", "seconds")


def leaderboard() -> str:
    """The page."""
    of_verb: dict[tuple[str, str, bool], list[pd.DataFrame]] = {}
    for found in measured():
        of_verb.setdefault((found.verb, found.measure, found.lower_is_better), []).append(standing(found))
    parts = [HEAD]
    for (verb, measure, lower_is_better), tables in of_verb.items():
        table = pd.concat(tables).drop_duplicates(["data", "method"])
        table = table.sort_values("mean", ascending=lower_is_better, kind="stable")
        parts += [f"\n## {verb}: {measure}\n", f"| {' | '.join(COLUMNS)} |", "|---|---|---|---|---|"]
        # Data sets in the order of the files, methods from best to worst.
        for data in pd.concat(tables)["data"].unique():
            of_data = table[table["data"] == data]
            parts += [_line(row, first=i == 0) for i, row in enumerate(of_data.to_dict("records"))]
    return "\n".join(parts) + "\n"


HEAD = """<!-- Written by `python -m benchmarks leaderboard` from benchmarks/results; do not edit. -->
# Leaderboard

All weights that were measured, in bold, beside simple peers and beside twins of the same structure without training.
"A prediction without error" is the correlation that the noise of the data leaves to the best of methods. Scores are
means and standard deviations over seeds; seconds are those of one run on two CPU cores, where known. No data set is
among what the weights learned from: where it is in the corpus, weights of the same recipe without it were used. Naming
by texts has no twin: without training a model knows no label."""


def standing(found: Measured) -> pd.DataFrame:
    """By data set and method ``mean`` and ``sd`` over seeds, ``seeds`` and ``seconds``; our method by its weights."""
    kept = [found.ours, *found.peers, NO_ERROR]
    shown = found.rows["method"].map(lambda name: name in kept or name.startswith(TWINS) or name.endswith(TWINS))
    rows = found.rows[shown.astype(bool)]
    ours = f"{TWIN}, {found.model.removeprefix(RANDOM)}" if found.model.startswith(RANDOM) else f"**{found.model}**"
    rows = rows.assign(method=rows["method"].where(rows["method"] != found.ours, ours))
    if "seed" not in rows:
        rows = rows.assign(seed=0)
    if "seconds" not in rows:
        rows = rows.assign(seconds=float("nan"))
    # Several rows of a seed, such as perturbations, count together.
    by_seed = rows.groupby(["data", "method", "seed"], sort=False)[["score", "seconds"]].mean()
    groups = by_seed.groupby(["data", "method"], sort=False)
    table = pd.DataFrame({"mean": groups["score"].mean(), "sd": groups["score"].std(), "seeds": groups.size()})
    table["seconds"] = groups["seconds"].mean()
    if "n_seeds" in rows:
        table["seeds"] = rows.groupby(["data", "method"], sort=False)["n_seeds"].max()
    return table.reset_index()


def _line(row: dict[str, object], *, first: bool) -> str:
    spread = "" if pd.isna(row["sd"]) else f" ± {row['sd']:.3f}"
    seconds = "" if pd.isna(row["seconds"]) else f"{row['seconds']:.3g}"
    cells = (row["data"] if first else "", row["method"], f"{row['mean']:.3f}{spread}", row["seeds"], seconds)
    return f"| {' | '.join(map(str, cells))} |"


def main(argv: Sequence[str] | None = None) -> None:
    """Collect and write."""
    args = parse(arguments(__doc__, "leaderboard", data=False), argv)
    out = PAGE if args.out.parent == RESULTS else args.out
    out.write_text(leaderboard())
    print(f"wrote {out}")
