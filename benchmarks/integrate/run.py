"""Whether fine-tuning on batches integrates them better than a closed form.

    python -m benchmarks integrate DATA_FOLDER --model held_out --celler held_out_celler

Both weights should have been trained without the scored data. The model is fine-tuned by `sf.tl.integrate` once per
seed, and so is a Celler, if given, for the first seeds. Beside them stand both without training, `sf.tl.embed` with
``batch_key``, which trains nothing, principal components, scVI if asked for, and Harmony where harmonypy is installed.
Celler reads fewer genes than by default, for the sake of time. Seconds are those of the processor.
"""

from __future__ import annotations

import importlib.util
import time
from typing import TYPE_CHECKING, Any

import numpy as np

import scfoundry as sf
from benchmarks.command import arguments, load_model, parse
from benchmarks.embed.peers import PCA_SETTINGS, SCVI_SETTINGS, cached, pca, scvi
from benchmarks.embed.report import score_table
from benchmarks.embed.run import score
from benchmarks.embed.tasks import DATA_SETS
from benchmarks.reporting import about, markdown_table, mean_and_spread, write_results

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from anndata import AnnData
    from numpy.typing import NDArray

    from benchmarks.embed.scores import Scores
    from benchmarks.embed.tasks import DataSet

    Embedding = tuple[NDArray[np.float32], dict[str, Any]]

DATA = [data for data in DATA_SETS if data.name in ("pbmc_3tech_1200", "cell_lines_mixology")]
N_GENES = {"Celler": 300, "CellPLM": 1200}


def methods(
    adata: AnnData,
    data: DataSet,
    weights: str,
    seeds: Sequence[int],
    cache: Path,
    *,
    celler_weights: str | None,
    celler_seeds: int,
    with_scvi: bool,
) -> dict[str, list[Embedding]]:
    """Embeddings of every method, one or one per seed, with what is known of them."""
    model = load_model(weights)
    name = type(model).__name__

    def run(name: str, compute: Callable[[], Embedding], **settings: Any) -> Embedding:
        return cached(cache, f"{data.name}.{name}", {"weights": model.provenance} | settings, compute)

    found = {"PCA": [pca(adata, data, cache)]}
    found[f"{name}, no training"] = [run("untuned", lambda: embedded(adata, model, adapt=None))]
    closed = {"batch_key": data.batch_key}
    found[f"sf.tl.embed, {name}, batches"] = [run("closed", lambda: embedded(adata, model, **closed))]
    if importlib.util.find_spec("harmonypy"):
        found["Harmony"] = [run("harmony", lambda: harmony(adata, found["PCA"][0][0], data))]
    found[f"sf.tl.integrate, {name}"] = [
        run(f"tuned{seed}", lambda seed=seed: integrated(adata, data, model, seed), **N_GENES) for seed in seeds
    ]
    if celler_weights:
        celler = load_model(celler_weights)
        how = N_GENES | {"celler": celler.provenance}
        untrained = run("celler", lambda: embedded(adata, celler, adapt=None), **how)
        found["Celler, no training"] = [untrained]
        found["sf.tl.integrate, Celler"] = [
            run(f"celler_tuned{seed}", lambda seed=seed: integrated(adata, data, celler, seed), **how)
            for seed in seeds[:celler_seeds]
        ]
    if with_scvi:
        found["scVI"] = [scvi(adata, data, cache, seed) for seed in seeds]
    return found


def embedded(adata: AnnData, model: Any, **how: Any) -> Embedding:
    """By `sf.tl.embed`."""
    sf.tl.embed(adata, model, key_added="embedding", **how)
    return adata.obsm.pop("embedding"), adata.uns.pop("embedding").get("adaptation", {})


def integrated(adata: AnnData, data: DataSet, model: Any, seed: int) -> Embedding:
    """By `sf.tl.integrate`, and losses of the first and the last epoch."""
    how: dict[str, Any] = {"n_genes": N_GENES[type(model).__name__], "rng": seed, "key_added": "embedding"}
    start = time.process_time()
    fitted = sf.tl.integrate(adata, batch_key=data.batch_key, model=model, **how, return_fitted=True)
    seconds, losses = time.process_time() - start, {}
    for name, values in fitted.model.history_.items():
        if name.endswith("_train"):
            losses[name.removesuffix("_train")] = [float(values.iloc[i, 0]) for i in (0, -1)]
    epochs = len(fitted.model.history_["loss_train"])
    return adata.obsm.pop("embedding"), {"losses": losses, "epochs": epochs, "cpu_seconds": round(seconds)}


def harmony(adata: AnnData, components: NDArray[np.float32], data: DataSet) -> Embedding:
    """Of principal components, by its own defaults."""
    import harmonypy

    corrected = harmonypy.run_harmony(components, adata.obs, data.batch_key, random_state=0).Z_corr
    corrected = corrected if len(corrected) == adata.n_obs else corrected.T
    return np.asarray(corrected, dtype=np.float32), {}


def main(argv: Sequence[str] | None = None) -> None:
    """Integrate, score, report."""
    parser = arguments(__doc__, "integrate", model="cellplm-mini", seeds=3)
    parser.add_argument("--celler", help="name or folder of weights of a Celler")
    parser.add_argument("--celler-seeds", type=int, default=1, help="Celler takes a CPU a quarter of an hour per seed")
    parser.add_argument("--scvi", action="store_true", help="with scVI, which trains for many minutes on a CPU")
    args = parse(parser, argv)
    sf.settings.verbosity = "warning"
    seeds = range(args.seeds)
    results: dict[str, Any] = about(args, "scanpy", "scvi-tools", "scib-metrics", "scikit-learn", "igraph") | {
        "settings": {"seeds": list(seeds), "PCA": PCA_SETTINGS, "scVI": SCVI_SETTINGS} | N_GENES,
        "data": {},
    }
    tables = [f"# Integration\n\n`{args.command}`\n"]
    for data in DATA:
        adata = data.read(args.data)
        scored = data.scored(adata)
        peers = {"celler_weights": args.celler, "celler_seeds": args.celler_seeds, "with_scvi": args.scvi}
        found = methods(adata, data, args.model, seeds, args.cache, **peers)
        unintegrated = found["PCA"][0][0]
        scores: dict[str, Scores] = {
            name: score([embedding for embedding, _ in runs], scored, seeds, unintegrated)
            for name, runs in found.items()
        }
        facts = {name: [known for _, known in runs] for name, runs in found.items()}
        results["data"][data.name] = {"batch_key": data.batch_key, "scores": scores, "fits": facts}
        tables += [score_table(data.name, scores), seconds_table(facts)]
        print("\n".join(tables[-2:]), flush=True)
    write_results(args.out, results, tables)


def seconds_table(facts: dict[str, list[dict[str, Any]]]) -> str:
    """What training costs."""
    spent = {name: [run["cpu_seconds"] for run in runs if "cpu_seconds" in run] for name, runs in facts.items()}
    rows = [(name, mean_and_spread(seconds, digits=0)) for name, seconds in spent.items() if seconds]
    return markdown_table("CPU seconds", ["", "one run"], rows)
