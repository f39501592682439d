"""Prediction of unseen perturbations, beside means and sums that are hard to beat.

    python -m benchmarks predict_perturbation DATA_FOLDER --model FOLDER

Truth and prediction share no control: methods see one half of the controls, the truth is the change from the other.
The weights must not have seen the data sets; cellplm-mini has. Scores are kept in ``--cache``, so that a run that was
interrupted goes on.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pandas as pd

import scfoundry as sf
from benchmarks.command import arguments, kept, load_model, parse
from benchmarks.predict_perturbation.report import by_condition, by_method, signal_table, tables
from benchmarks.predict_perturbation.screens import read
from benchmarks.predict_perturbation.tasks import PUBLISHED, held_out_groups, left_out_pairs, unseen_genes
from benchmarks.reporting import about, write_results

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable, Iterator, Sequence

    Row = dict[str, Any]
    # Data set, what is hidden and seed, what computes the scores.
    Job = tuple[str, str, Callable[[], Iterator[Row]]]

# By the recipe, with the data sets held out.
DEFAULT = "perturb"
HELD_OUT = """
The weights are cellplm-mini by its recipe with these data sets held out (benchmarks/README.md says how), because the
shipped ones have seen them.
"""
LINES = ("A172", "T98G", "U87MG")
# File, columns of perturbation and group, name of controls.
SCREENS = {
    "Norman K562": ("perturb_norman_mcfaline_5961", "perturbation", "control", "cell_type"),
    "McFaline": ("perturb_norman_mcfaline_5961", "perturbation", "control", "cell_type"),
    "Kang": ("kang_ifnb_2000", "condition", "ctrl", "cell_type"),
    "Zhao": ("glioblastoma_panobinostat_5000", "condition", "ctrl", "donor"),
}


def jobs(args: Namespace, model: Any) -> Iterator[Job]:
    """Everything that is hidden, data set by data set and seed by seed."""
    for data in args.data_sets:
        file, *columns = SCREENS[data]
        screen = read(args.data / f"{file}.h5ad", *columns)
        if data == "Norman K562":
            for seed in range(args.seeds):
                yield data, f"pairs.{seed}", partial(left_out_pairs, screen, "k562", seed, model)
            for seed in range(4 * args.seeds):
                how = {"fine_tune": seed < args.fine_tuned}
                stem = f"genes.{seed}" + ".fine_tuned" * how["fine_tune"]
                yield data, stem, partial(unseen_genes, screen, "k562", seed, model, **how)
            continue
        if data == "McFaline":
            for seed in range(args.seeds):
                for line in LINES:
                    yield data, f"{line}.{seed}", partial(unseen_genes, screen, line, seed, model, fine_tune=False)
            screen = screen.restricted(screen.adata.obs["cell_type"].isin(LINES).to_numpy())
        for seed in range(args.seeds):
            yield data, f"groups.{seed}", partial(held_out_groups, screen, seed, model)


def main(argv: Sequence[str] | None = None) -> None:
    """Hide, predict, score, report."""
    parser = arguments(__doc__, "predict_perturbation", model=DEFAULT)
    parser.add_argument(
        "--seeds", type=int, default=5, help="halves of the controls; four times as many for new genes in Norman"
    )
    parser.add_argument("--fine-tuned", type=int, default=2, help="of the latter, with the network trained, too")
    parser.add_argument("--data-sets", nargs="*", default=list(SCREENS), choices=SCREENS)
    args = parse(parser, argv)

    sf.settings.verbosity = "error"
    rows: list[Row] = []
    for data, stem, compute in jobs(args, load_model(args.model)):
        found = kept(args.cache / f"{args.weights}.{data}.{stem}.json", lambda compute=compute: list(compute()))
        rows += [{"data": data} | row for row in found]

    table = pd.DataFrame(rows)
    head = f"# Perturbation\n\n`{args.command}`, {args.seeds} seeds ({4 * args.seeds} of new genes in Norman)\n"
    report = [head + HELD_OUT * (args.model == DEFAULT), *tables(table, PUBLISHED), signal_table(table)]
    results = about(args, "scanpy", "anndata", "scikit-learn")
    results |= {"seeds": args.seeds, "fine_tuned": args.fine_tuned, "scores": by_condition(table)}
    write_results(args.out, results, report, rows=by_method(table))
    print("\n".join(report))
