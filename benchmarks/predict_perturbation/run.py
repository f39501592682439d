"""Prediction of unseen perturbations, beside means and sums that are hard to beat.

    python benchmarks/perturbation.py DATA_FOLDER --weights FOLDER

Truth and prediction share no control: methods see one half of the controls, the truth is the change from the other.
"""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from perturbation.report import by_condition, by_method, signal_table, tables
from perturbation.screens import read
from perturbation.tasks import PUBLISHED, held_out_groups, left_out_pairs, unseen_genes
from reporting import surroundings, write_results

import scfoundry as sf

if TYPE_CHECKING:
    from collections.abc import Iterable

    Row = dict[str, object]

WEIGHTS = """
The weights are cellplm-mini by its recipe with these data sets held out (benchmarks/README.md says how), because the
shipped ones have seen them.
"""
LINES = ("A172", "T98G", "U87MG")


def main() -> None:
    """Hide, predict, score, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DATA_FOLDER")
    parser.add_argument(
        "--weights", required=True, help="folder of weights that have not seen the three data sets; cellplm-mini has"
    )
    parser.add_argument(
        "--seeds", type=int, default=5, help="halves of the controls; four times as many for new genes in Norman"
    )
    parser.add_argument("--fine-tuned", type=int, default=2, help="of the latter, with the network trained, too")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "perturbation.json")
    args = parser.parse_args()

    sf.settings.verbosity = "error"
    model = sf.model.load_pretrained(args.weights)
    rows: list[Row] = []

    def keep(data: str, found: Iterable[Row]) -> None:
        rows.extend({"data": data} | row for row in found)
        print(data, len(rows), flush=True)

    screen = read(args.data / "perturb_norman_mcfaline_5961.h5ad", "perturbation", "control", "cell_type")
    for seed in range(args.seeds):
        keep("Norman K562", left_out_pairs(screen, "k562", seed, model))
    for seed in range(4 * args.seeds):
        fine_tune = seed < args.fine_tuned
        keep("Norman K562", unseen_genes(screen, "k562", seed, model, fine_tune=fine_tune))
    for seed in range(args.seeds):
        for line in LINES:
            keep("McFaline", unseen_genes(screen, line, seed, model, fine_tune=False))
    lines = screen.restricted(screen.adata.obs["cell_type"].isin(LINES).to_numpy())
    stimulated = read(args.data / "kang_ifnb_2000.h5ad", "condition", "ctrl", "cell_type")
    treated = read(args.data / "glioblastoma_panobinostat_5000.h5ad", "condition", "ctrl", "donor")
    for seed in range(args.seeds):
        keep("McFaline", held_out_groups(lines, seed, model))
        keep("Kang", held_out_groups(stimulated, seed, model))
        keep("Zhao", held_out_groups(treated, seed, model))

    found = pd.DataFrame(rows)
    command = shlex.join(["python", "benchmarks/perturbation.py", "DATA_FOLDER", "--weights", Path(args.weights).name])
    about = {"command": command, "seeds": args.seeds, "fine_tuned": args.fine_tuned}
    about |= {"surroundings": surroundings("scanpy", "anndata", "scikit-learn")}
    head = f"# Perturbation\n\n`{command}`, {args.seeds} seeds ({4 * args.seeds} of new genes in Norman)\n{WEIGHTS}"
    report = [head, *tables(found, PUBLISHED), signal_table(found)]
    write_results(args.out, about | {"scores": by_condition(found)}, report, rows=by_method(found))
    print("\n".join(report))


if __name__ == "__main__":
    main()
