"""Embedding cells of a store: with the result of cells in memory, from whatever moment a call was ended at."""

from __future__ import annotations

import signal
import subprocess
import sys

import anndata as ad
import numpy as np
import pytest
import zarr
from cases import MODELS, leaves, same
from filelock import FileLock

import scfoundry as sf
from scfoundry.data import unfinished
from scfoundry.data.matrix import parts
from scfoundry.data.store import Store
from scfoundry.data.unfinished import RowsOnDisk

KINDS = ("h5ad", "zarr2", "zarr3")
CPU = {"device": "cpu", "batch_size": 8}


class Killed(BaseException):
    """Ends a process where it stands: nothing catches it."""


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    """Cells come seven at a time."""
    monkeypatch.setattr(parts, "CELLS_PER_PART", 7)


@pytest.fixture(scope="module")
def adata(make_adata):
    return make_adata(30, 40)


@pytest.fixture(scope="module")
def models(adata):
    return {name: MODELS[name](adata.var_names) for name in MODELS}


def stored(adata, folder, kind):
    path = folder / f"cells.{kind.rstrip('23')}"
    if kind == "h5ad":
        adata.write_h5ad(path)
    else:
        with ad.settings.override(zarr_write_format=int(kind[-1])):
            adata.write_zarr(path)
    return path


def read(path):
    return ad.read_h5ad(path) if path.suffix == ".h5ad" else ad.read_zarr(path)


@pytest.fixture(scope="module")
def result(adata, models):
    """What a call in memory writes."""
    found = {}

    def of(name, **how):
        key = name, *how.items()
        if key not in found:
            found[key] = sf.tl.embed(adata, models[name], **CPU, **how, copy=True)
        return written(found[key])

    return of


def written(adata):
    return {f"obsm/{name}": values for name, values in adata.obsm.items() if name != "spatial"} | {
        address: value.item() if isinstance(value, np.generic) else value
        for address, value in leaves(adata.uns, "uns").items()
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", [{"batch_key": "batch", "spatial_key": "spatial"}, {"adapt": None}])
def test_a_store_holds_what_cells_in_memory_would(adata, models, result, tmp_path, kind, how):
    path = stored(adata, tmp_path, kind)
    assert sf.tl.embed(str(path), models["cellplm"], **CPU, **how) is None
    found = read(path)
    same(written(found), result("cellplm", **how), tolerance=1e-6)
    assert found.obsm["X_cellplm"].dtype == np.float32
    assert [child.name for child in tmp_path.iterdir()] == [path.name]
    # The cells are as they were.
    assert (found.X != adata.X).nnz == 0
    assert list(found.obs) == list(adata.obs)


@pytest.mark.parametrize("name", MODELS)
def test_every_model_gives_some_cells_after_others(adata, models, result, tmp_path, name):
    path = stored(adata, tmp_path, "h5ad")
    sf.tl.embed(path, models[name], adapt=None, key_added="latent", **CPU)
    same(written(read(path)), result(name, adapt=None, key_added="latent"), tolerance=1e-6)


def test_a_fitted_embedder_and_layers_of_a_store(adata, models, tmp_path):
    adata = adata.copy()
    adata.layers["counts"] = adata.X.toarray()
    path, how = stored(adata, tmp_path, "h5ad"), {"layer": "counts", "batch_key": "batch"}
    embedder = sf.tl.embed(path, models["cellnamer"], **how, **CPU, return_fitted=True)
    sf.tl.embed(path, embedder, **how, **CPU, key_added="again")
    found = read(path)
    np.testing.assert_allclose(found.obsm["again"], found.obsm["X_cellnamer"], atol=1e-6)


def test_fine_tuned_weights_are_kept(adata, models, result, tmp_path):
    how = {"fine_tune": True, "max_epochs": 1, "adapt": None}
    path, strike = stored(adata, tmp_path, "zarr3"), strikes(RowsOnDisk, "__setitem__", 1)
    with pytest.raises(Killed):
        sf.tl.embed(path, models["cellplm"], **how, **CPU)
    strike.undo()
    strike = strikes(type(models["cellplm"]), "fine_tune_expression", 1)
    sf.tl.embed(path, models["cellplm"], **how, **CPU)  # does not train a second time
    strike.undo()
    same(written(read(path)), result("cellplm", **how), tolerance=1e-6)


# ---- a call that is ended -------------------------------------------------------------------------------------------


def strikes(owner, name, turn):
    """End what calls a function for the ``turn``-th time, when that has done its work; until this is undone."""
    plain, calls = getattr(owner, name), []

    def run(*args, **how):
        found = plain(*args, **how)
        calls.append(None)
        if len(calls) == turn:
            raise Killed
        return found

    patch = pytest.MonkeyPatch()
    patch.setattr(owner, name, run)
    return patch


MOMENTS = {
    "when the latent begins": (unfinished, "write_whole", 2),
    "a part written and not marked": (RowsOnDisk, "__setitem__", 3),
    "a part marked": (RowsOnDisk, "__setitem__", 4),
    "all that was learned": (unfinished, "write_whole", 3),
    "in the embedding": (RowsOnDisk, "__setitem__", 14),
    "a slot written": (sys.modules[Store.__module__], "_write", 1),
    "all slots written": (sys.modules[Store.__module__], "_write", 2),
    "in their places": (Store, "write", 1),
}


@pytest.mark.parametrize(
    ("moment", "name", "kind"),
    [(moment, "cellnamer", "h5ad") for moment in MOMENTS]
    + [(moment, "cellplm", "zarr3") for moment in ("a part marked", "all slots written", "in their places")],
)
def test_what_was_ended_goes_on(adata, models, result, tmp_path, monkeypatch, kind, name, moment):
    path = stored(adata, tmp_path, kind)
    strike = strikes(*MOMENTS[moment])
    with pytest.raises(Killed):
        sf.tl.embed(path, models[name], batch_key="batch", **CPU)
    strike.undo()
    complete = moment == "in their places"
    assert (f"X_{name}" in read(path).obsm) == (name in read(path).uns) == complete
    again = []
    monkeypatch.setattr(RowsOnDisk, "__setitem__", counted(RowsOnDisk.__setitem__, again))
    sf.tl.embed(path, models[name], batch_key="batch", **CPU)
    same(written(read(path)), result(name, batch_key="batch"), tolerance=1e-6)
    assert [child.name for child in tmp_path.iterdir()] == [path.name]
    # Two writes for each of five parts, and for the latent and the embedding.
    assert len(again) < 20 or moment == "when the latent begins"


def counted(function, calls):
    def run(*args):
        calls.append(None)
        function(*args)

    return run


def test_a_slot_that_is_replaced_is_gone_before_the_new_one_is_there(adata, models, result, tmp_path):
    path = stored(adata, tmp_path, "zarr3")
    sf.tl.embed(path, models["cellplm"], **CPU)
    for moment, turn in (("listed", 1), ("moved", 2)):
        strike = strikes(zarr, "consolidate_metadata", turn)
        with pytest.raises(Killed):
            sf.tl.embed(path, models["cellplm"], adapt=None, **CPU)
        strike.undo()
        assert ("X_cellplm" in read(path).obsm) == (moment == "moved")
    sf.tl.embed(path, models["cellplm"], adapt=None, **CPU)
    same(written(read(path)), result("cellplm", adapt=None), tolerance=1e-6)


KILLED = """
import os, signal, sys
import scfoundry as sf
from scfoundry.data.matrix import parts
from scfoundry.data.unfinished import RowsOnDisk
parts.CELLS_PER_PART = 7
plain, calls = RowsOnDisk.__setitem__, []
def strike(self, rows, values):
    plain(self, rows, values)
    calls.append(rows)
    if len(calls) == 5:
        os.kill(os.getpid(), signal.SIGKILL)
RowsOnDisk.__setitem__ = strike
sf.tl.embed(sys.argv[1], sys.argv[2], device="cpu", batch_size=8)
"""


def test_a_process_that_is_killed_leaves_what_the_next_goes_on_with(adata, models, result, tmp_path, logged):
    model, path = tmp_path / "model", stored(adata, tmp_path, "zarr2")
    models["cellnamer"].save_pretrained(model)
    ended = subprocess.run([sys.executable, "-c", KILLED, path, model], check=False)  # noqa: S603, our own lines
    assert ended.returncode == -signal.SIGKILL
    assert "X_cellnamer" not in read(path).obsm
    sf.tl.embed(path, model, **CPU)
    assert any("latent: 14 of 30 cells were done before" in message for message in logged)
    expected = result("cellnamer")["obsm/X_cellnamer"]
    np.testing.assert_allclose(read(path).obsm["X_cellnamer"], expected, rtol=1e-6, atol=1e-6)


# ---- what is refused -----------------------------------------------------------------------------------------------


def test_another_call_does_not_go_on_with_what_was_ended(adata, models, tmp_path):
    path = stored(adata, tmp_path, "h5ad")
    strike = strikes(RowsOnDisk, "__setitem__", 3)
    with pytest.raises(Killed):
        sf.tl.embed(path, models["cellnamer"], **CPU)
    strike.undo()
    with pytest.raises(ValueError, match=r"with batch_key=None, .* this is one with batch_key='batch', .*rmtree"):
        sf.tl.embed(path, models["cellnamer"], batch_key="batch", **CPU)
    with pytest.raises(ValueError, match=r"with weights='untrained \w+', and this"):
        sf.tl.embed(path, models["cellplm"], key_added="X_cellnamer", **CPU)
    changed = adata.copy()
    changed.X.data[0] += 1
    stored(changed, tmp_path, "h5ad")
    with pytest.raises(ValueError, match="with data='30 cells"):
        sf.tl.embed(path, models["cellnamer"], **CPU)


def test_two_processes_do_not_write_the_same(adata, models, tmp_path):
    path = stored(adata, tmp_path, "h5ad")
    folder = tmp_path / "cells.h5ad.X_cellplm.unfinished"
    folder.mkdir()
    with FileLock(folder / "lock"), pytest.raises(ValueError, match="another process is writing the same results"):
        sf.tl.embed(path, models["cellplm"], **CPU)


def test_results_that_cannot_be_right_leave_nothing(adata, models, tmp_path, monkeypatch):
    path, model = stored(adata, tmp_path, "zarr2"), models["cellplm"]
    nothing = np.full((adata.n_obs, 3), np.nan)
    monkeypatch.setattr(type(model), "embed_parts", lambda *_: [(np.arange(len(nothing)), nothing)])
    with pytest.raises(ValueError, match="NaN or infinite"):
        sf.tl.embed(path, model, adapt=None, **CPU)
    assert [child.name for child in tmp_path.iterdir()] == [path.name]
    assert not {"X_cellplm"} & set(read(path).obsm)


def test_no_room_is_said_before_anything_is_computed(adata, models, tmp_path, monkeypatch):
    path = stored(adata, tmp_path, "h5ad")
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    monkeypatch.setattr(type(models["cellplm"]), "embed_parts", None)
    with pytest.raises(OSError, match=r"needs 0.0 GB .* An \.h5ad is copied once, a \.zarr is not"):
        sf.tl.embed(path, models["cellplm"], **CPU)


def test_paths_that_are_no_stores(adata, models, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no nowhere\.zarr"):
        sf.tl.embed("nowhere.zarr", models["cellplm"])
    (tmp_path / "cells.h5mu").touch()
    with pytest.raises(ValueError, match=r"writes into an \.h5ad file or a \.zarr folder.*Convert it"):
        sf.tl.embed(tmp_path / "cells.h5mu", models["cellplm"])
    path = stored(adata, tmp_path, "h5ad")
    with pytest.raises(ValueError, match=r"copy=True returns an AnnData. For that, read it: .*copy=True\)"):
        sf.tl.embed(path, models["cellplm"], copy=True)
    with pytest.raises(ValueError, match="its columns: 'batch', 'cell_type'"):
        sf.tl.embed(path, models["cellplm"], batch_key="sample")
    with pytest.raises(ValueError, match="its keys: 'spatial'"):
        sf.tl.embed(path, models["cellplm"], spatial_key="places")
