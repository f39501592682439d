"""What losses for the long tail add, part by part, on sets whose types are of very unequal size.

    python -m benchmarks annotate_long_tail DATA_FOLDER --model cellplm-mini

Half of the cells of every type are learned from, the others named, by `sf.tl.annotate` with each loss, beside logistic
regression on all genes, plain and with classes weighted by one over their size, and CellTypist; with ``--fine-tuned``
all weights are trained, too, which takes long. Types are divided into thirds by the cells they are learned from: head,
medium and tail. One random division per seed, for all methods alike.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any

import pandas as pd

import scfoundry as sf
from benchmarks.annotate_long_tail.methods import ALL_WEIGHTS, BASE, LOSSES, annotated, peers
from benchmarks.annotate_long_tail.tasks import GROUPS, LABEL, SETS, split
from benchmarks.command import arguments, kept, load_model, parse
from benchmarks.reporting import about, markdown_table, score_table, write_results

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.annotate_long_tail.methods import Method
    from benchmarks.annotate_long_tail.tasks import Split

DEFAULT = "cellplm-mini"
TITLES = {"macro_f1": "macro F1", **{f"f1_{group}": f"F1 of {group} types" for group in GROUPS}}
TITLES |= {
    "accuracy": "accuracy",
    "ece": "expected calibration error of the score",
    "ece_corrected": "expected calibration error of the score, corrected to the shares of the reference",
    "seconds": "seconds",
}
SEEN = {
    "cellplm-mini": "Counts of the human sets may have been in the training of cellplm-mini, but no labels.\n",
    **{
        name: f"Labelled cells of most of these sets trained {name}: compare ways and losses, not their height.\n"
        for name in ("celler-mini", "cellnamer-mini", "langcell-mini")
    },
}


def scored(task: Split, name: str, method: Method, seed: int) -> list[dict[str, Any]]:
    """Scores of one method on one division."""
    start = time.perf_counter()
    named = method(task, seed)
    seconds = round(time.perf_counter() - start, 1)
    truth = task.query.obs[LABEL].to_numpy().astype(str)
    found = sf.metrics.annotation(truth, named.labels)[["macro_f1", "accuracy"]].to_dict()
    by_group = sf.metrics.annotation_by_class(truth, named.labels)["f1"].groupby(task.groups).mean()
    found |= {f"f1_{group}": float(by_group[group]) for group in GROUPS}
    right = named.labels == truth
    found["ece"] = float(sf.metrics.calibration(named.score, right)["ece"])
    if named.corrected is not None:
        found["ece_corrected"] = float(sf.metrics.calibration(named.corrected.clip(0, 1), right)["ece"])
    return [{"set": task.name, "method": name, "seed": seed, **found, "seconds": seconds}]


def beside_base(rows: pd.DataFrame) -> str:
    """Macro F1 and F1 of the tail, as far above class-weighted logistic regression as they are, set by set."""
    body = []
    for name in rows["set"].unique():
        means = rows[rows["set"] == name].groupby("method")[["macro_f1", "f1_tail"]].mean()
        ours = means.loc[[method for method in LOSSES if method in means.index]] - means.loc[BASE]
        cells = [f"{macro:+.3f} / {tail:+.3f}" for macro, tail in ours.itertuples(index=False)]
        body.append((name, *cells))
    return markdown_table(f"macro F1 / F1 of tail types, minus those of {BASE}", ["set", *LOSSES], body)


def main(argv: Sequence[str] | None = None) -> None:
    """Annotate, score, report."""
    parser = arguments(__doc__, "annotate_long_tail", model=DEFAULT, seeds=3)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS), help="some of the sets")
    parser.add_argument("--fine-tuned", action="store_true", help="train all weights, too")
    parser.add_argument("--celltypist", action="store_true", help="beside it, if installed: some minutes more per set")
    args = parse(parser, argv)

    sf.settings.verbosity = "error"
    model = load_model(args.model)
    ways = LOSSES | (ALL_WEIGHTS if args.fine_tuned else {})
    methods: dict[str, Method] = {name: partial(annotated, model=model, how=how) for name, how in ways.items()}
    methods |= peers(with_celltypist=args.celltypist)
    rows: list[dict[str, Any]] = []
    sizes: list[dict[str, Any]] = []
    for name in args.sets:
        for seed in range(args.seeds):
            task = split(args.data, name, seed)
            if not seed:
                sizes.append(task.described)
            for label, method in methods.items():
                stem = f"{args.weights}.{name}.{label}.{seed}".replace("/", "-")
                rows += kept(args.cache / f"{stem}.json", partial(scored, task, label, method, seed))
    table = pd.DataFrame(rows)
    head = (
        f"# Types of few cells\n\n`{args.command}`\n\nDivisions 0 to {args.seeds - 1} of the cells; mean ± standard "
        f"deviation over them.\n\n" + SEEN.get(args.weights, "")
    )
    tables = [score_table(title, table, score, columns="set") for score, title in TITLES.items()]
    division = markdown_table("sets, division 0", list(sizes[0]), [tuple(size.values()) for size in sizes])
    tables = [head, beside_base(table), *tables, division]
    packages = ("scanpy", "scikit-learn", *(["celltypist"] if "CellTypist" in methods else []))
    write_results(args.out, about(args, *packages) | {"sets": sizes, "scores": rows}, tables, rows=table.round(4))
    print("\n".join(tables))
