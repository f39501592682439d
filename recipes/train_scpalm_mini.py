"""Train scpalm-mini, a small scPaLM, on the corpus and save it as a model folder.

    python recipes/train_scpalm_mini.py DATA_FOLDER OUT_FOLDER

By both stages of `sf.model.ScPaLM`, without labels: pathway tokens that reconstruct expression, then a token of the
cell. The weights are written in half precision.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import torch
from command import arguments, print_losses, save
from corpus import build

import scfoundry as sf
from scfoundry.data.genes import GeneVocabulary

CONFIG = {
    "n_tokens": 32,
    "n_hidden": 80,
    "n_codes": 128,
    "n_layers": 2,
    "n_heads": 4,
    "n_intermediate": 256,
    "n_value": 32,
    "n_gene": 16,
}
# What tokens mean is shown on studies that the weights have not seen: the scores on the card are of those that ship.
HELD_OUT = ("cell_lines_mixology", "kang_ifnb_2000", "pbmc10k_citeseq", "pdac_a_indrop", "pdac_a_st")
# Rates above the published ones, which are for models of many times the size.
STAGES = {
    1: {"max_epochs": 6, "lr": 3e-3, "batch_size": 32, "validation_size": 0.03},
    2: {"max_epochs": 2, "lr": 1e-3, "batch_size": 32, "validation_size": 0.03},
}
CELLS_PER_PROFILE = 24


def without_batches(model: sf.model.ScPaLM) -> sf.model.ScPaLM:
    """The same model with one mean of every gene, the average of all samples: cells of none of them are to be read."""
    averaged = model.copy(n_batches=1)
    for name in ("decoder", "cell_decoder.decoder"):
        means = model.module.get_submodule(name).means
        with torch.no_grad():
            averaged.module.get_submodule(name).means.copy_(means.mean(0, keepdim=True))
    return averaged


def main() -> None:
    """Build the corpus, train, save."""
    parser = arguments(__doc__, hold_out=HELD_OUT)
    parser.add_argument("--training", type=json.loads, default={}, help="arguments of both stages to change, as JSON")
    parser.add_argument("--checkpoints", type=Path, help="folder from which an interrupted training goes on")
    args = parser.parse_args()

    corpus, manifest = build(args.data, hold_out=args.hold_out, cells_per_profile=CELLS_PER_PROFILE, seed=args.seed)
    print(f"{corpus.n_obs:,} cells, {corpus.n_vars:,} genes of {len(manifest)} files")
    sf.model.ScPaLM.setup_anndata(corpus, batch_key="sample")
    genes = GeneVocabulary(corpus.var_names, corpus.var["symbol"])
    model = sf.model.ScPaLM(corpus, genes=genes, seed=args.seed, **(CONFIG | args.config))
    print(model.summary_string)
    start = time.process_time()
    for stage, training in STAGES.items():
        how = training | args.training | {"checkpoint_dir": args.checkpoints, "seed": args.seed}
        model.train(stage=stage, accelerator="cpu", **how)
    print_losses(model)
    print(f"trained for {time.process_time() - start:,.0f} s of one core")
    trained_on = f"{corpus.n_obs:,} human cells of {len(manifest)} files"
    save(without_batches(model), args.out, manifest=manifest, trained_on=trained_on)


if __name__ == "__main__":
    main()
