"""Train celllm-mini, a small CellLM, on the corpus and save it as a model folder.

    python recipes/train_celllm_mini.py DATA_FOLDER OUT_FOLDER

By the three objectives of `sf.model.CellLM`, on cells of normal tissue and of tumours: levels that are hidden, which of
many cells two views show, and whether a cell is of a tumour, which its study says. Gene vectors start as principal axes
of the corpus. The weights are written in half precision.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from command import arguments, print_losses, save
from corpus import build
from gene_axes import gene_axes

import scfoundry as sf
from scfoundry.data.genes import GeneVocabulary

if TYPE_CHECKING:
    from anndata import AnnData

CONFIG = {
    "n_hidden": 128,
    "n_layers": 2,
    "n_heads": 4,
    "n_head": 32,
    "n_intermediate": 256,
    "n_features": 64,
    "n_contrast": 64,
    "max_length": 256,
}
READING = {"max_length": 2000}
# What tells tumours from normal tissue is worth nothing where it was learned: the scores on the card are of the very
# weights that ship, which have not seen these studies.
HELD_OUT = (
    "breast_cancer_wu_cid4465",
    "cell_lines_mixology",
    "liver_he_2839",
    "oligodendroglioma_184",
    "pancreas_cepo_528",
    "pancreas_islet_baron_h1",
    "pbmc10k_citeseq",
    "pbmc_3tech_1200",
    "pbmc_hao_1336",
    "pdac_a_indrop",
    "pdac_a_st",
)
# Parts as large as the batch: so small a model needs no division.
TRAINING = {
    "max_epochs": 1,
    "lr": 1e-3,
    "batch_size": 48,
    "part_size": 48,
    "weight_decay": 0.01,
    "warmup_steps": 20,
    "validation_size": 0.02,
}


def tumour_of(corpus: AnnData) -> pd.Series:
    """``tumour`` or ``normal`` by the tissue of the study; missing of cell lines, and of cells drawn of mean profiles.

    Nothing else tells the two apart: whatever differs between these studies is part of the answer.
    """
    tissue = corpus.obs["tissue"].astype(str)
    tumour = tissue.str.contains("tumour|melanoma")
    known = ~tissue.str.contains("cell lines|cultured") & (corpus.obs["values"] != "means")
    return pd.Series(np.where(tumour, "tumour", "normal"), corpus.obs_names).where(known)


def trained(corpus: AnnData, config: dict[str, Any], training: dict[str, Any], seed: int) -> sf.model.CellLM:
    """A model of the corpus."""
    print(corpus.obs["kind"].value_counts().to_string())
    sf.model.CellLM.setup_anndata(corpus, tumour_key="kind")
    genes = GeneVocabulary(corpus.var_names, corpus.var["symbol"])
    model = sf.model.CellLM(corpus, genes=genes, seed=seed, **config)
    print(model.summary_string)
    with torch.no_grad():
        model.module.genes.weight[: len(genes)] = gene_axes(corpus, model.config.n_hidden, seed)
    model.train(seed=seed, accelerator="cpu", **training)
    print_losses(model)
    return model


def main() -> None:
    """Build the corpus, train, save."""
    parser = arguments(__doc__, hold_out=HELD_OUT)
    parser.add_argument("--training", type=json.loads, default={}, help="arguments of train to change, as JSON")
    args = parser.parse_args()

    corpus, manifest = build(args.data, hold_out=args.hold_out, seed=args.seed)
    corpus.obs["kind"] = tumour_of(corpus)
    corpus = corpus[corpus.obs["kind"].notna().to_numpy()].copy()
    manifest = [entry for entry in manifest if Path(entry["file"]).stem in set(corpus.obs["study"])]
    print(f"{corpus.n_obs:,} cells, {corpus.n_vars:,} genes of {len(manifest)} files")
    start = time.process_time()
    model = trained(corpus, CONFIG | args.config, TRAINING | args.training, args.seed)
    print(f"trained for {time.process_time() - start:,.0f} s of one core")
    trained_on = f"{corpus.n_obs:,} human cells: {', '.join(Path(entry['file']).stem for entry in manifest)}"
    save(model, args.out, READING, manifest=manifest, trained_on=trained_on)


if __name__ == "__main__":
    main()
