"""What all benchmarks are called with, and where their numbers go."""

from __future__ import annotations

import argparse
from pathlib import Path

__all__ = ["RESULTS", "arguments", "results_of"]

RESULTS = Path(__file__).parent / "results"


def arguments(
    doc: str | None, verb: str, *, model: str | None = None, seeds: int | None = None, data: bool = True
) -> argparse.ArgumentParser:
    """Parser with what the benchmark of a verb takes.

    Parameters
    ----------
    doc
        What the benchmark says of itself.
    verb
        Its name for ``python -m benchmarks``.
    model, seeds
        Defaults; without one there is no such argument.
    data
        Whether it reads a folder of data.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks {verb}", description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    if data:
        parser.add_argument("data", type=Path, metavar="DATA_FOLDER", help="folder with the .h5ad files")
    if model is not None:
        parser.add_argument("--model", default=model, help=f"name or folder of weights, {model} by default")
    if seeds is not None:
        parser.add_argument("--seeds", type=int, default=seeds, help=f"number of seeds, {seeds} by default")
    parser.add_argument("--out", type=Path, help="JSON file, the tables go beside it; a file in results/ by default")
    return parser


def results_of(verb: str, model: str | None = None, default: str | None = None) -> Path:
    """File for the numbers of a model; the default model's carries the name of the verb alone."""
    other = "" if model in (None, default) else f".{Path(str(model)).name}"
    return RESULTS / f"{verb}{other}.json"
