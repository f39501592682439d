"""Lines and drugs, what is hidden of them, and how predictions are scored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import anndata as ad
import numpy as np

import scfoundry as sf

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from anndata import AnnData

__all__ = ["DATA", "SPLITS", "Task", "read", "scored", "tasks"]

Row = dict[str, Any]

# Name -> file, column with the tissue, whether expression is logarithmic (else it is standardised).
DATA = {
    "CCLE/GDSC": ("ccle_gdsc_ic50", "primary_site", False),
    "GDSC2": ("gdsc2_ic50", "tissue", True),
}
SPLITS = ("cold_cell", "cold_tissue", "cold_drug", "warm")
LEAST_LINES = 30
TEST = 0.2
RELATIVE = "relative"


class Task(NamedTuple):
    """What a method may see, and what it is asked."""

    lines: AnnData
    train: pd.DataFrame  # lines x drugs, NaN where hidden or not measured
    test: pd.DataFrame  # lines x drugs, NaN but where asked
    smiles: dict[str, str]
    split: str
    seed: int


def read(folder: Path, name: str) -> AnnData:
    """Lines; in the layer ``relative`` what a model reads: log1p of shares per 10,000.

    Standardised logarithms have lost the level of every gene: there each gene counts as if expressed alike.
    """
    file, tissue, logarithmic = DATA[name]
    lines = ad.read_h5ad(folder / f"{file}.h5ad")
    lines.X = np.asarray(lines.X.todense() if hasattr(lines.X, "todense") else lines.X, dtype=np.float32)
    rates = np.exp2(lines.X.astype(float)) if logarithmic else np.exp(lines.X.astype(float).clip(-5, 5))
    lines.layers[RELATIVE] = np.log1p(rates / rates.sum(1, keepdims=True) * 1e4).astype(np.float32)
    lines.obs["tissue_of_line"] = lines.obs[tissue].astype(str)
    response = lines.obsm["ln_ic50"]
    lines.obsm["ln_ic50"] = response.loc[:, response.notna().sum() >= LEAST_LINES]
    return lines


def tasks(lines: AnnData, split: str, seed: int) -> Task:
    """One draw, of drugs with SMILES: methods that read structures would know nothing of others."""
    response = lines.obsm["ln_ic50"]
    texts = lines.uns["drug_smiles"]["smiles"]
    smiles = {drug: text for drug, text in texts.items() if drug in response and isinstance(text, str) and text}
    response = response[[drug for drug in response if drug in smiles]]
    tissues = lines.obs["tissue_of_line"] if split == "cold_tissue" else None
    share = 0.1 if split == "warm" else TEST
    parts = sf.pp.split_drug_response(response, split, tissues=tissues, test=share, valid=0, rng=seed)
    train = response.where(parts.train)
    test = response.where(parts.test)
    if split != "cold_drug":
        enough = train.notna().sum() >= 3
        train, test = train.loc[:, enough], test.loc[:, enough]
    return Task(lines, train, test, smiles, split, seed)


def scored(task: Task, name: str, predicted: pd.DataFrame, *, seconds: float) -> Row:
    """Scores of one method."""
    scores = sf.metrics.drug_response(task.test, predicted).loc["predicted"]
    return {"split": task.split, "seed": task.seed, "method": name, "seconds": seconds} | scores.to_dict()
