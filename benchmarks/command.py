"""What all benchmarks are called with, which model they ask, where their numbers go, and how a run goes on."""

from __future__ import annotations

import argparse
import json
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import scfoundry as sf

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["NO_ERROR", "RANDOM", "RESULTS", "TWIN", "arguments", "kept", "load_model", "parse", "untrained"]

RESULTS = Path(__file__).parent / "results"
RANDOM = "random:"
# Rows of tables: our own structure without what training gave it, and the best that noise lets any method reach.
TWIN = "random weights"
NO_ERROR = "a prediction without error"

Row = dict[str, Any]


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
        parser.add_argument(
            "--model",
            default=model,
            help=f"name or folder of weights, {model} by default; {RANDOM}NAME for a random start",
        )
        parser.add_argument(
            "--cache", type=Path, default=Path("runs/benchmarks"), help="where a run that was interrupted goes on from"
        )
    if seeds is not None:
        parser.add_argument("--seeds", type=int, default=seeds, help=f"number of seeds, {seeds} by default")
    parser.add_argument("--out", type=Path, help="JSON file, the tables go beside it; a file in results/ by default")
    return parser


def parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """Arguments; ``command`` is the line that result files show, ``weights`` the model's name without its folder.

    The numbers of the default model go to the file that carries the name of the verb alone.
    """
    args = parser.parse_args(argv)
    words = [*parser.prog.split(), *(["DATA_FOLDER"] if "data" in args else [])]
    for name, value in vars(args).items():
        if name == "model" or (name not in ("data", "out", "cache") and value != parser.get_default(name)):
            values = value if isinstance(value, list) else [] if value is True else [value]
            words += [f"--{name.replace('_', '-')}", *(Path(str(v)).name for v in values)]
    args.command = shlex.join(words)
    verb, of_model = parser.prog.split()[-1], ""
    if "model" in args:
        args.cache /= verb
        args.weights = Path(args.model).name.replace(":", "-")
        of_model = "" if args.model == parser.get_default("model") else f".{args.weights}"
    args.out = args.out or RESULTS / f"{verb}{of_model}.json"
    return args


def load_model(name: str, *, seed: int = 0) -> Any:
    """Weights by name or folder; after ``random:`` a model of their structure and genes that has learned nothing."""
    model = sf.model.load_pretrained(name.removeprefix(RANDOM))
    return untrained(model, seed=seed) if name.startswith(RANDOM) else model


def untrained(model: Any, *, seed: int = 0) -> Any:
    """A model of the same structure and genes with random weights: what pretraining adds."""
    return type(model)(genes=model.genes, seed=seed, **asdict(model.config))


def kept(path: Path, compute: Callable[[], list[Row]]) -> list[Row]:
    """Rows of a file, computed if it does not exist; their numbers are shown as they come."""
    if not path.exists():
        rows = compute()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(rows))
        for row in rows:
            if numbers := {name: round(x, 4) for name, x in row.items() if isinstance(x, float)}:
                print(path.stem, numbers, flush=True)
    return json.loads(path.read_text())
