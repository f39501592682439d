"""Recovery of hidden values of log expression, as scPaLM and MAGIC are compared.

    python -m benchmarks denoise_log DATA_FOLDER --model scpalm-mini

Counts are normalised first; then 10 % of the expressed genes of a cell are hidden, low values more often (in proportion
to exp(-x)). Methods see the other values as they were, scVI the other counts. Errors are those on the hidden values.
That these are not 0 no method is told, which a constant is. What was computed is kept in ``--cache``.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
from sklearn.neighbors import NearestNeighbors

import scfoundry as sf
from benchmarks import peers
from benchmarks.command import arguments, kept, load_model, parse
from benchmarks.denoise.methods import N_COMPONENTS, N_NEIGHBORS, SCVI_SAMPLES
from benchmarks.denoise.tasks import read
from benchmarks.reporting import about, score_table, write_results
from scfoundry._device import Compute
from scfoundry.data.matrix.cells import Cells
from scfoundry.data.matrix.log_normalisation import log_cp10k
from scfoundry.tasks.denoising.expectation import hold_out

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray
    from scipy import sparse

    Row = dict[str, Any]
    Method = Callable[["Visible", int], NDArray[np.floating]]

DEFAULT = "scpalm-mini"
DATA_SETS = ("pbmc10k_citeseq", "kang_ifnb_2000")
SHARE, SCALE = 0.1, 1.0
MEASURES = {"rmse": "RMSE of hidden values, log1p of counts per 10,000", "mae": "MAE of hidden values"}


class Visible(NamedTuple):
    """What is not hidden: values of log expression and counts, both (n_obs, n_vars), CSR."""

    log: sparse.csr_matrix
    cells: ad.AnnData


def hide(cells: ad.AnnData, seed: int) -> tuple[Visible, sparse.csr_matrix]:
    """What stays, and what is hidden of log expression."""
    visible, hidden = hold_out(log_cp10k(cells.X), SHARE, np.random.default_rng(seed), SCALE)
    seen = visible.copy()
    seen.data = np.ones_like(seen.data)
    counts = ad.AnnData(cells.X.multiply(seen).tocsr().astype(np.float32), var=cells.var[[]])
    return Visible(visible, counts), hidden


def zero(visible: Visible, seed: int) -> NDArray[np.floating]:
    """The values as they are."""
    return np.zeros(visible.log.shape, dtype=np.float32)


def gene_mean(visible: Visible, seed: int) -> NDArray[np.floating]:
    """Mean of the gene over all cells."""
    return np.broadcast_to(np.asarray(visible.log.mean(0)), visible.log.shape)


def mean_where_expressed(visible: Visible, seed: int) -> NDArray[np.floating]:
    """Mean of the gene over cells that express it: a constant that knows what is hidden not to be 0."""
    n_cells = np.bincount(visible.log.indices, minlength=visible.log.shape[1])
    mean = np.asarray(visible.log.sum(0)).ravel() / n_cells.clip(min=1)
    return np.broadcast_to(mean, visible.log.shape)


def neighbors(visible: Visible, seed: int) -> NDArray[np.floating]:
    """Mean of the 50 nearest other cells by 50 principal components."""
    return _mean_of_nearest(visible.log, visible, seed)


def neighbors_of_counts(visible: Visible, seed: int) -> NDArray[np.floating]:
    """Log of the mean of their normalised counts, as scVI reads its own: never below the mean of logs."""
    return np.log1p(_mean_of_nearest(visible.log.expm1(), visible, seed))


def _mean_of_nearest(values: sparse.csr_matrix, visible: Visible, seed: int) -> NDArray[np.floating]:
    components = sc.pp.pca(visible.log, n_comps=N_COMPONENTS, random_state=seed)
    nearest = NearestNeighbors(n_neighbors=N_NEIGHBORS).fit(components).kneighbors_graph()
    return ((nearest @ values) / N_NEIGHBORS).toarray()


def magic(visible: Visible, seed: int) -> NDArray[np.floating]:
    """MAGIC with its defaults."""
    from magic import MAGIC

    found = MAGIC(random_state=seed, verbose=False).fit_transform(visible.log.toarray())
    return np.asarray(found)


def scvi(visible: Visible, seed: int) -> NDArray[np.floating]:
    """Posterior mean of scVI, trained on the visible counts."""
    model = peers.scvi(visible.cells, seed)
    shares = model.get_normalized_expression(n_samples=SCVI_SAMPLES, return_numpy=True)
    return np.log1p(peers.TARGET_SUM * shares)


PEERS: dict[str, Method] = {
    "0": zero,
    "gene mean": gene_mean,
    "gene mean where expressed": mean_where_expressed,
    "kNN, k = 50": neighbors,
    "kNN of counts, k = 50": neighbors_of_counts,
    "MAGIC": magic,
    "scVI": scvi,
}


def ours(model: Any) -> dict[str, Method]:
    """Reconstruction by pathway tokens of the given weights, and after these went on learning from visible counts."""

    def tuned(visible: Visible, seed: int) -> NDArray[np.floating]:
        cells = Cells.of(visible.cells, model.genes, caller="benchmark", allow_log1p=False)
        how = {"max_epochs": None, "seed": seed, "compute": Compute.resolve("cpu")}
        return reconstructed(visible, model.fine_tune_expression(cells, **how))

    return {"ScPaLM, zero-shot": lambda visible, seed: reconstructed(visible, model), "ScPaLM, fine-tuned": tuned}


def reconstructed(visible: Visible, model: Any) -> NDArray[np.floating]:
    """Of the genes of the data, all of which the model knows."""
    columns = model.genes.align(visible.cells)
    found = model.reconstruct(columns.apply(visible.log), Compute.resolve("cpu"))
    return found[:, pd.Index(model.genes.ids).get_indexer(visible.cells.var_names)]


def errors(cells: ad.AnnData, seed: int, method: Method) -> list[Row]:
    """Errors of a method on what was hidden."""
    visible, hidden = hide(cells, seed)
    start = time.process_time()
    predicted = method(visible, seed)
    seconds = round(time.process_time() - start, 1)
    rows, columns = hidden.nonzero()
    difference = np.maximum(predicted[rows, columns], 0) - np.asarray(hidden[rows, columns]).ravel()
    scores = {"rmse": float(np.sqrt((difference**2).mean())), "mae": float(np.abs(difference).mean())}
    return [{"seed": seed, "n_hidden": len(rows), "seconds": seconds} | scores]


def main(argv: Sequence[str] | None = None) -> None:
    """Normalise, hide, recover, report."""
    parser = arguments(__doc__, "denoise_log", model=DEFAULT, seeds=3)
    parser.add_argument("--data-sets", nargs="*", default=list(DATA_SETS), choices=DATA_SETS)
    args = parse(parser, argv)
    sf.settings.verbosity = "error"
    model, rows = load_model(args.model), []
    for data in args.data_sets:
        cells = read(args.data, data, model.genes)
        for name, method in (PEERS | ours(model)).items():
            for seed in range(1 if name == "scVI" else args.seeds):
                compute = partial(errors, cells, seed, method)
                found = kept(args.cache / f"{args.weights}.{data}.{name}.{seed}.json", compute)
                rows += [{"data": data, "method": name} | row for row in found]
    table = pd.DataFrame(rows)
    tables = [f"# Hidden values of log expression\n\n`{args.command}`\n"]
    tables += [score_table(title, table, score, columns="data") for score, title in MEASURES.items()]
    results = about(args, "scanpy", "anndata", "scvi-tools", "scikit-learn", "magic-impute")
    results |= {"share": SHARE, "scale": SCALE, "scvi": peers.SCVI_TRAINING, "scores": rows}
    write_results(args.out, results, tables)
    print("\n".join(tables))
