"""Work sent to the processes of a dask cluster gives what one process gives."""

from __future__ import annotations

import os
import shutil
import signal

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from remote import inverse, square, total_counts
from scipy import sparse

import scfoundry as sf
from scfoundry._compat import data_frame, layer_names
from scfoundry._workers import Workers
from scfoundry.data.genes import GeneVocabulary
from scfoundry.data.matrix.cells import Cells
from scfoundry.data.matrix.located import LocatedMatrix
from scfoundry.data.matrix.parts import over_parts

distributed = pytest.importorskip("distributed", reason="needs the extra scfoundry-models[scale]")

N_CELLS = 3000
LABELS = ["B cell", "T cell", "monocyte"]
VERBS = {
    "embed": lambda adata, **how: sf.tl.embed(adata, "cellplm", **how),
    "embed in contexts": lambda adata, **how: sf.tl.embed(adata, "cellplm", batch_key="sample", **how),
    "embed latent": lambda adata, **how: sf.tl.embed(adata, "cellplm", adapt=None, **how),
    "embed by moments": lambda adata, **how: sf.tl.embed(adata, "cellnamer", adapt=None, **how),
    "zero-shot": lambda adata, **how: sf.tl.zero_shot_annotate(adata, LABELS, **how),
    "denoise": lambda adata, **how: sf.tl.denoise(adata, "cellplm", fine_tune=False, batch_key="sample", **how),
    "rank_encode": sf.pp.rank_encode,
    "bin_expression": sf.pp.bin_expression,
}


@pytest.fixture(scope="module")
def client():
    """Two worker processes of one thread each."""
    settings = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with distributed.LocalCluster(**settings) as cluster, distributed.Client(cluster) as client:
        yield client


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """Counts of more cells than make one piece of work, in files of both kinds."""
    rng = np.random.default_rng(0)
    genes = sf.datasets.human_genes()["symbol"].dropna().drop_duplicates().iloc[:600]
    profiles = rng.gamma(0.3, 1.0, size=(3, len(genes)))
    counts = rng.poisson(profiles[rng.integers(3, size=N_CELLS)])
    adata = ad.AnnData(sparse.csr_matrix(counts.astype(np.float32)), var=pd.DataFrame(index=genes.tolist()))
    # Two contexts are small, the third is larger than a piece of work.
    adata.obs["sample"] = np.repeat(["a", "b", "c"], [400, 900, 1700])
    folder = tmp_path_factory.mktemp("stored")
    adata.write_h5ad(folder / "cells.h5ad")
    adata.write_zarr(folder / "cells.zarr")
    return folder


def written(adata: ad.AnnData, before: set[str]) -> dict[str, np.ndarray]:
    """Numbers that a verb wrote."""
    slots = {"obs": data_frame(adata.obs).select_dtypes("number")} | dict(adata.obsm)
    slots |= {name: adata.layers[name] for name in layer_names(adata)}
    found = {name: value for name, value in slots.items() if name not in before}
    dense = {name: value.toarray() if sparse.issparse(value) else np.asarray(value) for name, value in found.items()}
    return {name: value.astype(np.float64) for name, value in dense.items() if value.size}


@pytest.mark.parametrize(
    ("verb", "source"),
    [("embed latent", "memory"), ("embed latent", "zarr"), *((verb, "h5ad") for verb in VERBS)],
)
def test_result_is_that_of_one_process(client, stored, verb, source):
    def opened() -> ad.AnnData:
        if source == "zarr":
            return ad.experimental.read_lazy(stored / "cells.zarr")
        return ad.read_h5ad(stored / "cells.h5ad", backed="r" if source == "h5ad" else None)

    alone, together = opened(), opened()
    VERBS[verb](alone)
    VERBS[verb](together, distribute=True)
    expected, found = (written(adata, {"sample"}) for adata in (alone, together))
    assert expected.keys() == found.keys()
    assert expected
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("how", [{"adapt": None}, {"batch_key": "sample"}])
def test_a_store_is_written_by_the_process_that_asks(client, stored, tmp_path, how):
    path = shutil.copytree(stored / "cells.zarr", tmp_path / "cells.zarr")
    sf.tl.embed(path, "cellplm", **how, distribute=True, key_added="together")
    alone = ad.read_zarr(path)
    sf.tl.embed(alone, "cellplm", **how, key_added="alone")
    np.testing.assert_allclose(alone.obsm["together"], alone.obsm["alone"], rtol=1e-6, atol=1e-6)


def test_annotation_is_that_of_one_process(client, stored):
    reference = ad.read_h5ad(stored / "cells.h5ad")[:600].copy()
    reference.obs["cell_type"] = np.where(np.arange(600) % 2 == 0, "B cell", "T cell")
    fitted = sf.tl.annotate(reference.copy(), reference, labels_key="cell_type", return_fitted=True)
    alone, together = (ad.read_h5ad(stored / "cells.h5ad", backed="r") for _ in range(2))
    sf.tl.annotate(alone, model=fitted)
    sf.tl.annotate(together, model=fitted, distribute=True)
    key = next(name for name in alone.obsm)
    np.testing.assert_allclose(np.asarray(together.obsm[key]), np.asarray(alone.obsm[key]), rtol=1e-6, atol=1e-6)


def test_a_worker_that_dies_is_replaced(client, stored):
    workers = Workers.active(caller="test")
    victim = next(iter(client.run(os.getpid).values()))
    found = list(workers.map(square, range(40), victim, str(stored / "died")))
    assert found == [i**2 for i in range(40)]
    assert (stored / "died").exists()


@pytest.fixture(scope="module")
def logs(stored):
    """Log values in a file, of which the first piece of work by itself would be taken for counts."""
    adata = ad.read_h5ad(stored / "cells.h5ad")
    values = np.log1p(adata.X.toarray())
    values[:1100] = values[:1100].round()
    adata.X = sparse.csr_matrix(values)
    adata.write_h5ad(stored / "logs.h5ad")
    return stored / "logs.h5ad"


@pytest.mark.parametrize("verb", ["rank_encode", "bin_expression"])
def test_cells_that_look_otherwise_by_themselves_are_encoded_anew(client, logs, verb):
    alone, together = (ad.read_h5ad(logs, backed="r") for _ in range(2))
    VERBS[verb](alone)
    VERBS[verb](together, distribute=True)
    expected, found = (written(adata, {"sample"}) for adata in (alone, together))
    assert expected.keys() == found.keys() != set()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


@pytest.mark.parametrize(
    ("held_values", "values_per_cell"), [(0, None), (200_000, None), (2**26, None), (2**16, 1)], ids=str
)
def test_what_workers_keep_does_not_show(client, logs, monkeypatch, held_values, values_per_cell):
    monkeypatch.setattr("scfoundry.data.matrix.reader.HELD_VALUES", held_values)
    if values_per_cell is not None:  # so that pieces turn out to be larger than what one may keep
        monkeypatch.setattr(LocatedMatrix, "values_per_cell", values_per_cell)
    alone, together = (ad.read_h5ad(logs, backed="r") for _ in range(2))
    sf.tl.embed(alone, "cellnamer", adapt=None)
    sf.tl.embed(together, "cellnamer", adapt=None, distribute=True)
    np.testing.assert_allclose(together.obsm["X_cellnamer"], alone.obsm["X_cellnamer"], rtol=1e-6, atol=1e-6)


def test_what_workers_keep_is_read_once_unless_one_dies(client, stored, tmp_path):
    path = tmp_path / "cells.zarr"
    shutil.copytree(stored / "cells.zarr", path)
    genes = GeneVocabulary(ad.read_h5ad(stored / "cells.h5ad").var_names.tolist())
    adata = ad.experimental.read_lazy(path)
    cells = Cells.of(adata, genes, caller="test", workers=Workers.active(caller="test"))
    totals = [np.asarray(counts.sum(1)).ravel() for counts in cells.blocks()]
    path.rename(tmp_path / "away")
    np.testing.assert_array_equal(np.concatenate(list(over_parts(total_counts, cells.reader))), np.concatenate(totals))
    (tmp_path / "away").rename(path)
    os.kill(next(iter(client.run(os.getpid).values())), signal.SIGKILL)
    np.testing.assert_array_equal(np.concatenate(list(over_parts(total_counts, cells.reader))), np.concatenate(totals))


def test_an_error_in_a_worker_reaches_the_user_and_takes_back_the_rest(client, stored):
    workers = Workers.active(caller="test")
    with pytest.raises(ZeroDivisionError):
        list(workers.map(inverse, [1, 1, 0, 1] * 10))
    assert list(workers.map(inverse, [1, 2])) == [1, 0.5]


def test_a_file_that_is_written_again_is_read_again(client, stored):
    path = stored / "rewritten.h5ad"
    for n_cells in (1500, 1200):
        adata = ad.read_h5ad(stored / "cells.h5ad")[-n_cells:].copy()
        adata.write_h5ad(path)  # workers hold nothing open
        sf.pp.rank_encode(adata)
        together = ad.read_h5ad(path, backed="r")
        sf.pp.rank_encode(together, distribute=True)
        together.file.close()
        assert (together.obsm["X_rank"] != adata.obsm["X_rank"]).nnz == 0


def test_wrong_values_are_refused_as_usual(client, stored):
    adata = ad.read_h5ad(stored / "cells.h5ad")
    adata.X = adata.X.toarray() - 1
    with pytest.raises(ValueError, match="looks scaled"):
        sf.tl.embed(adata, "cellplm", distribute=True)


def test_without_a_client_the_error_says_how_to_start_one(stored, monkeypatch):
    def none(*_):
        msg = "No clients found"
        raise ValueError(msg)

    monkeypatch.setattr(distributed, "default_client", none)
    with pytest.raises(ValueError, match="Client\\(n_workers=4"):
        sf.tl.embed(ad.read_h5ad(stored / "cells.h5ad"), "cellplm", distribute=True)
