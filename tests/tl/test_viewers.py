"""What viewers of cells read of a file: embeddings as arrays of numbers, labels as categories with codes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import h5py
import numpy as np
import pytest
import zarr

import scfoundry as sf

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def viewed(make_adata):
    """Cells with an embedding and labels, as a lab would put them into a viewer."""
    both = make_adata(60)
    adata, reference = both[:40].copy(), both[40:].copy()
    model = sf.model.CellPLM(genes=adata.var_names, n_hidden=16, n_latent=4)
    sf.tl.embed(adata, model, device="cpu")
    sf.tl.annotate(adata, reference, labels_key="cell_type", model=model, device="cpu")
    return adata


@pytest.fixture(scope="module", params=["h5ad", "zarr"])
def opened(request, viewed, tmp_path_factory):
    """The file as a viewer sees it: CELLxGENE reads HDF5, Vitessce zarr, neither through anndata."""
    path: Path = tmp_path_factory.mktemp("viewed") / f"cells.{request.param}"
    if request.param == "zarr":
        viewed.write_zarr(path)
        yield zarr.open_group(path, mode="r")
    else:
        viewed.write_h5ad(path)
        with h5py.File(path) as file:
            yield file


def test_embeddings_are_arrays_of_numbers_whose_names_begin_with_x(opened, viewed):
    embeddings = [name for name in opened["obsm"] if name.startswith("X_")]
    assert embeddings == ["X_cellplm"]
    found = opened["obsm/X_cellplm"][:]
    assert found.dtype == np.float32
    assert found.shape[0] == viewed.n_obs
    assert found.shape[1] >= 2
    np.testing.assert_array_equal(found, viewed.obsm["X_cellplm"])
    assert np.isfinite(found).all()


def test_labels_are_categories_with_codes_and_scores_are_numbers(opened, viewed):
    labels = opened["obs/annotation"]
    assert dict(labels.attrs)["encoding-type"] == "categorical"
    names = [name.decode() if isinstance(name, bytes) else str(name) for name in labels["categories"][:]]
    assert [names[code] for code in labels["codes"][:]] == viewed.obs["annotation"].tolist()
    assert opened["obs/annotation_score"][:].dtype == np.float32


def test_no_name_is_one_that_viewers_keep_to_themselves(opened):
    assert not [name for part in ("obs", "var", "obsm", "uns") for name in opened[part] if name.startswith("__")]


def test_a_table_of_results_becomes_an_array_in_one_line(viewed, tmp_path):
    adata = viewed.copy()
    adata.obsm["annotation_scores"] = adata.obsm["annotation_scores"].to_numpy()
    adata.write_h5ad(tmp_path / "cells.h5ad")
    with h5py.File(tmp_path / "cells.h5ad") as file:
        assert all(isinstance(part, h5py.Dataset) for part in file["obsm"].values())
        np.testing.assert_array_equal(file["obsm/annotation_scores"][:], viewed.obsm["annotation_scores"])
