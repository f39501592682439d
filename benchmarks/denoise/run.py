"""Recovery of hidden counts, and agreement of denoised RNA with its surface protein.

    python benchmarks/denoising.py DATA_FOLDER --weights FOLDER

The published protocol hides counts of every cell (`sf.pp.simulate_dropout`); all methods see the rest. Scores of every
data set, mask and method are kept in ``--cache`` and computed once.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from denoising.data import DATA_SETS, PROTEIN_SET, protein_correlations, read
from denoising.methods import METHODS, SCVI_SETTINGS
from denoising.report import protein_table, score_tables
from reporting import surroundings, write_results

import scfoundry as sf

if TYPE_CHECKING:
    from collections.abc import Callable

Row = dict[str, Any]

# The first is the published one.
SEEDS = (10, 11, 12)
WEIGHTS = """
The weights are cellplm-mini by its recipe with these data sets held out (benchmarks/README.md says how), because the
shipped ones have seen two of them.
"""
# Costly; the latter only to see what pretraining adds.
ONCE = ("scVI", "CellPLM, from scratch")


def hidden_counts(data: Path, name: str, seed: int, method: str, weights: str) -> list[Row]:
    """Scores of a method on a data set with some counts hidden, in both readings, and those of constants."""
    cells = read(data, name, weights)
    sf.pp.simulate_dropout(cells, rng=seed)
    shown = cells.copy()
    shown.X = shown.layers.pop("train")
    start = time.perf_counter()
    readings = METHODS[method](shown, seed, weights)
    seconds = round(time.perf_counter() - start, 1)
    rows = []
    for reading, expected in zip(("plain", "given detection"), readings, strict=True):
        given = reading == "given detection"
        scores = sf.metrics.denoising(cells.X, expected, cells.layers["test_mask"], given_detected=given)
        for who, values in scores.iterrows():
            if who == "predicted" or method == "raw":
                what = {"method": method if who == "predicted" else who, "reading": reading, "seconds": seconds}
                rows.append({"data": name, "seed": seed} | what | values.to_dict())
    return rows


def proteins(data: Path, seed: int, method: str, weights: str) -> list[Row]:
    """Correlation of RNA that was denoised with nothing hidden and its surface protein."""
    cells = read(data, PROTEIN_SET, weights)
    expected, _ = METHODS[method](cells, seed, weights)
    found = protein_correlations(cells, expected)
    return [{"pair": pair, "seed": seed, "method": method} | values.to_dict() for pair, values in found.iterrows()]


def kept(path: Path, compute: Callable[[], list[Row]]) -> list[Row]:
    """Rows of a file, computed if it does not exist."""
    if not path.exists():
        rows = compute()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(rows))
        print(path.stem, {k: round(v, 4) for k, v in rows[0].items() if isinstance(v, float)}, flush=True)
    return json.loads(path.read_text())


def main() -> None:
    """Hide, denoise, score, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DATA_FOLDER")
    parser.add_argument("--weights", default="cellplm-mini", help="weights that have not seen the data sets")
    parser.add_argument("--seeds", type=int, nargs="*", default=list(SEEDS))
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--cache", type=Path, default=Path(__file__).parent / ".cache" / "denoising")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "denoising.json")
    args = parser.parse_args()

    sf.settings.verbosity = "error"
    scores: list[Row] = []
    surface: list[Row] = []
    for seed in args.seeds:
        for method in args.methods:
            if method in ONCE and seed != args.seeds[0]:
                continue
            stem = f"{method.replace(' ', '_').replace(',', '')}.{seed}.json"
            for name in DATA_SETS:
                job = (args.data, name, seed, method, args.weights)
                scores += kept(args.cache / f"{name}.{stem}", lambda job=job: hidden_counts(*job))
            # Nothing is hidden there, so that the seeds of masks play no part.
            if seed == args.seeds[0]:
                job = (args.data, seed, method, args.weights)
                surface += kept(args.cache / f"proteins.{stem}", lambda job=job: proteins(*job))

    table, pairs = pd.DataFrame(scores), pd.DataFrame(surface)
    pairs = pairs.assign(data=PROTEIN_SET, reading="surface protein")
    words = ["python", "benchmarks/denoising.py", "DATA_FOLDER", "--weights", Path(args.weights).name]
    words += ["--seeds", *map(str, args.seeds)] if args.seeds != list(SEEDS) else []
    words += ["--methods", *args.methods] if args.methods != list(METHODS) else []
    command = shlex.join(words)
    about = {"command": command, "seeds": args.seeds, "scvi": SCVI_SETTINGS}
    about |= {"surroundings": surroundings("scanpy", "anndata", "scvi-tools", "scikit-learn")}
    head = f"# Denoising\n\n`{command}`, mask seeds {', '.join(map(str, args.seeds))}\n{WEIGHTS}"
    tables = [head, *score_tables(table), protein_table(pairs)]
    # By pandas, because correlations with a constant are not defined and JSON knows no NaN.
    numbers = {"scores": table, "proteins": pairs.drop(columns=["data", "reading"])}
    found = {name: json.loads(frame.to_json(orient="records")) for name, frame in numbers.items()}
    write_results(args.out, about | found, tables, rows=pd.concat([table, pairs]))
    print("\n".join(tables))


if __name__ == "__main__":
    sys.exit(main())
