"""Single cells that are sensitive to a drug: by labels, by a twentieth of them, and by transfer from bulk lines.

    python -m benchmarks drug_sensitivity DATA_FOLDER --model expression

The set is saturated: logistic regression on a few cells finds the two cultures that the labels stand for. Transfer asks
whether what bulk lines say of the drug orders the cells; other drugs of the same lines are its control.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score
from sklearn.preprocessing import StandardScaler

import scfoundry as sf
from benchmarks.command import arguments, kept, parse
from benchmarks.drug_response.tasks import read
from benchmarks.reporting import markdown_table, mean_and_spread, surroundings, write_results

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from anndata import AnnData
    from numpy.typing import NDArray

Row = dict[str, Any]
FILE, DRUG = "a375_plx4720_response", "PLX-4720"
SHOTS = {"80 % of the cells": 0.8, "5 % of the cells": 0.05, "2 cells of each": 2}
POSITIVE = "sensitive"


def cells_of(folder: Path) -> AnnData:
    """Cells, with the two labels as words."""
    cells = ad.read_h5ad(folder / f"{FILE}.h5ad")
    cells.X = np.asarray(cells.X.todense() if hasattr(cells.X, "todense") else cells.X, dtype=np.float32)
    cells.obs["truth"] = np.where(cells.obs["response"].astype(int) == 1, POSITIVE, "resistant")
    return cells


def row(method: str, shots: str, seed: int, truth: NDArray[np.bool_], probability: NDArray[np.floating]) -> Row:
    """Scores of cells that were not learned from."""
    return {
        "method": method,
        "shots": shots,
        "seed": seed,
        "auroc": float(roc_auc_score(truth, probability)),
        "average_precision": float(average_precision_score(truth, probability)),
        "f1": float(f1_score(truth, probability > 0.5)),
        "n": len(truth),
    }


def by_labels(folder: Path, seed: int) -> list[Row]:
    """The verb and plain logistic regression, from the same cells."""
    cells, rows = cells_of(folder), []
    truth = (cells.obs["truth"] == POSITIVE).to_numpy()
    rng = np.random.default_rng(seed)
    for name, shots in SHOTS.items():
        drawn = []
        for kind in (False, True):
            own = rng.permutation(np.flatnonzero(truth == kind))
            drawn.append(own[: shots if isinstance(shots, int) else max(1, round(shots * len(own)))])
        learned = np.sort(np.concatenate(drawn))
        others = np.setdiff1d(np.arange(len(truth)), learned)
        cells.obs["known"] = cells.obs["truth"].where(np.isin(np.arange(len(truth)), learned), None)
        sf.tl.drug_sensitivity(cells, response_key="known", positive=POSITIVE, rng=seed)
        found = cells.obs["drug_sensitivity"].to_numpy(dtype=float)
        rows.append(row("sf.tl.drug_sensitivity", name, seed, truth[others], found[others]))
        scaler = StandardScaler().fit(cells.X[learned])
        for method, values in {
            "logistic regression": cells.X,
            "logistic regression, genes standardised by the cells it learns from": scaler.transform(cells.X),
        }.items():
            plain = LogisticRegression(max_iter=1000).fit(values[learned], truth[learned])
            rows.append(row(method, name, seed, truth[others], plain.predict_proba(values[others])[:, 1]))
    return rows


def by_transfer(folder: Path, seed: int) -> list[Row]:
    """From bulk lines; the other drugs say what any response of lines would order cells by."""
    cells, lines = cells_of(folder), read(folder, "CCLE/GDSC")
    fitted = sf.tl.drug_response(lines, response="ln_ic50", n_folds=0, rng=seed, return_fitted=True)
    truth, rows = (cells.obs["truth"] == POSITIVE).to_numpy(), []
    scores = {}
    for drug in fitted.drugs:
        sf.tl.drug_sensitivity(cells, bulk=fitted, drug=drug)
        scores[drug] = cells.obs["drug_sensitivity"].to_numpy(dtype=float)
    rows.append(row(f"transfer from lines: {DRUG}", "no label", seed, truth, scores.pop(DRUG)))
    others = [row("", "", 0, truth, found)["auroc"] for found in scores.values()]
    rows[0] |= {"share_of_other_drugs_below": float(np.mean(np.array(others) < rows[0]["auroc"]))}
    rows[0] |= {"mean_auroc_of_other_drugs": float(np.mean(others))}
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    """Score and report."""
    args = parse(arguments(__doc__, "drug_sensitivity", model="expression", seeds=5), argv)
    sf.settings.verbosity = "error"
    rows = kept(args.cache / "transfer.json", partial(by_transfer, args.data, 0))
    for seed in range(args.seeds):
        rows += kept(args.cache / f"labels.{seed}.json", partial(by_labels, args.data, seed))
    scores = pd.DataFrame(rows)
    columns = ["auroc", "average_precision", "f1"]
    body = [
        (method, shots, *(mean_and_spread(part[name]) for name in columns))
        for (method, shots), part in scores.groupby(["method", "shots"], sort=False)
    ]
    transfer = rows[0]
    text = [
        f"# Drug sensitivity of single cells\n\n`{args.command}`\n",
        markdown_table("A375, PLX4720: 73 cells", ["method", "learned from", "AUROC", "average precision", "F1"], body),
        (
            f"Transfer of other drugs: mean AUROC {transfer['mean_auroc_of_other_drugs']:.3f}; "
            f"{transfer['share_of_other_drugs_below']:.0%} of them lie below {DRUG}.\n"
        ),
    ]
    results = {"command": args.command, "weights": {"weights": args.model}, "scores": rows}
    write_results(args.out, results | {"surroundings": surroundings("scikit-learn")}, text, rows=scores)
    print("\n".join(text))
