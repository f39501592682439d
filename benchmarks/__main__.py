"""Run a benchmark: ``python -m benchmarks VERB [DATA_FOLDER] --model NAME``; every verb explains itself with --help."""

from __future__ import annotations

import importlib
import sys

BENCHMARKS = {
    "embed": "embed.run",
    "cluster": "cluster.run",
    "scpalm_ablation": "scpalm_ablation.run",
    "integrate": "integrate.run",
    "annotate": "annotate.run",
    "annotate_long_tail": "annotate_long_tail.run",
    "few_shot": "annotate.few_shot",
    "zero_shot_annotate": "zero_shot_annotate.run",
    "doubtful_labels": "zero_shot_annotate.doubtful",
    "impute_spatial": "impute_spatial.run",
    "denoise": "denoise.run",
    "denoise_log": "denoise.log_values",
    "predict_perturbation": "predict_perturbation.run",
    "drug_response": "drug_response.run",
    "drug_sensitivity": "drug_response.sensitivity",
    "gene_network": "gene_network.run",
    "rank_genes_attention": "rank_genes_attention.run",
    "pathway_tokens": "pathway_tokens.run",
    "discriminate_tumour": "discriminate_tumour.run",
    "gene_vectors": "gene_vectors.run",
    "contrast": "contrast.run",
    "speed_cellplm": "speed.cellplm",
    "speed_divide_and_conquer": "speed.divide_and_conquer",
    "speed_langcell": "speed.langcell",
    "speed_celler": "speed.celler",
    "speed_bin_expression": "speed.bin_expression",
    "speed_celllm": "speed.celllm",
    "speed_dropped_attention": "speed.dropped_attention",
    "speed_scpalm": "speed.scpalm",
    "speed_rank_encode": "speed.rank_encode",
    "scaling": "speed.scaling",
    "training_from_disk": "speed.training_from_disk",
    "training_memory": "speed.training_memory",
    "distribute": "speed.distribute",
    "gpu": "gpu",
    "summary": "summary",
    "leaderboard": "leaderboard",
}


def main() -> None:
    """Hand the arguments to the benchmark."""
    verb = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if verb not in BENCHMARKS:
        known = "\n  ".join(BENCHMARKS)
        print(f"{__doc__}\n\nverbs:\n  {known}")
        sys.exit(0 if verb in ("--help", "-h") else f"there is no benchmark {verb!r}")
    importlib.import_module(f"benchmarks.{BENCHMARKS[verb]}").main(sys.argv[2:])


if __name__ == "__main__":
    main()
