"""What every benchmark writes: markdown tables, all numbers as JSON, and the machine they come from."""

from __future__ import annotations

import json
import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import scfoundry as sf
from benchmarks.command import load_model

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterable, Sequence

    import pandas as pd

__all__ = ["about", "markdown_table", "mean_and_spread", "score_table", "surroundings", "write_results"]


def markdown_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Format a titled table."""
    lines = [f"### {title}", "", "| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def score_table(title: str, rows: pd.DataFrame, score: str, *, columns: str) -> str:
    """One row per method, one column per value of ``columns``, mean ± spread over seeds; their mean if none lacks."""
    values = list(rows[columns].unique())
    body = []
    for method, runs in rows.groupby("method", sort=False):
        cells = [mean_and_spread(runs.loc[runs[columns] == value, score]) for value in values]
        mean = "-" if "-" in cells else f"{runs.groupby(columns)[score].mean().mean():.3f}"
        body.append((method, *cells, mean))
    return markdown_table(title, ["method", *values, "mean"], body)


def mean_and_spread(values: Iterable[float], *, digits: int = 3, ddof: int = 0) -> str:
    """Mean ± standard deviation; the mean alone where the latter rounds to nothing, a dash where there is none."""
    x = np.asarray(list(values), dtype=float)
    if not len(x) or np.isnan(x).any():
        return "-"
    spread = f"{x.std(ddof=ddof):.{digits}f}" if len(x) > 1 else ""
    return f"{x.mean():.{digits}f}" + (f" ± {spread}" if spread.strip("0.") else "")


def about(args: Namespace, *packages: str) -> dict[str, Any]:
    """What stands beside the numbers of a verb: command, weights, machine, versions."""
    weights = load_model(args.model).provenance
    return {"command": args.command, "weights": weights, "surroundings": surroundings(*packages)}


def surroundings(*packages: str) -> dict[str, Any]:
    """Machine, how busy it is, and versions: what a number depends on beside the code."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": [round(load, 2) for load in os.getloadavg()],
        "python": platform.python_version(),
        "versions": {"scfoundry": sf.__version__}
        | {name: version(name) for name in ("torch", "numpy", "scipy", *packages)},
    }


def write_results(
    out: Path, results: dict[str, Any], tables: Sequence[str], *, rows: pd.DataFrame | None = None
) -> None:
    """Write numbers to ``out``, tables to a markdown file beside it, rows to a CSV file, all with their origin."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(results, indent=1) + "\n")
    out.with_suffix(".md").write_text("\n".join([*tables, origin(results["surroundings"])]))
    if rows is not None:
        versions = {f"version {name}": number for name, number in results["surroundings"]["versions"].items()}
        rows = rows.assign(command=results["command"], **versions)
        rows.to_csv(out.with_suffix(".csv"), index=False, float_format="%.5g")


def origin(where: dict[str, Any]) -> str:
    """Versions and machine in a line."""
    versions = ", ".join(f"{name} {number}" for name, number in where["versions"].items())
    return f"{versions}; Python {where['python']}, {where['cores']} cores of {where['cpu']}.\n"


def _cpu() -> str:
    """Model name of the processor."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        if names:
            return names[0]
    return platform.processor() or platform.machine()
