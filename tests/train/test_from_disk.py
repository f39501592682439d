"""Training on cells that are not in memory: blocks of a file, mixed some at a time, each read about once an epoch."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from anndata import AnnData, read_h5ad
from anndata.experimental import read_lazy
from cases import MODELS, registered, training_cells
from scipy import sparse

from scfoundry.data.matrix import located, reader
from scfoundry.data.matrix.kept_blocks import KeptBlocks
from scfoundry.data.matrix.reader import CountsReader
from scfoundry.train import cells as training
from scfoundry.train.cells import CellDataModule

if TYPE_CHECKING:
    from pathlib import Path

HOW: dict[str, Any] = {"max_epochs": 1, "accelerator": "cpu", "enable_progress_bar": False}


@pytest.fixture
def from_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is kept in memory but the blocks that were read last."""
    monkeypatch.setattr(reader, "HELD_VALUES", 0)


def test_kept_blocks_give_any_rows_and_are_read_once():
    matrix = sparse.random_array((50, 7), density=0.4, rng=np.random.default_rng(0), format="csr")
    matrix, loaded = sparse.csr_matrix(matrix), []

    def load(rows: np.ndarray) -> sparse.csr_matrix:
        loaded.append((int(rows[0]), len(rows)))
        return matrix[rows]

    kept, rng = KeptBlocks(load, 50, 8), np.random.default_rng(1)
    for n in (1, 13, 50, 90):
        rows = rng.integers(50, size=n)
        np.testing.assert_array_equal(kept.read(rows).toarray(), matrix[rows].toarray())
    assert sorted(loaded) == [(start, min(8, 50 - start)) for start in range(0, 50, 8)]
    kept.capacity = 2
    kept.read(np.arange(16))
    loaded.clear()
    kept.read(np.arange(8, 16))
    assert not loaded
    kept.read(np.array([40, 3, 9]))
    assert loaded == [(40, 8)] or loaded == [(0, 8), (40, 8)]


def test_an_epoch_has_every_cell_once_and_mixes_some_blocks_at_a_time(monkeypatch):
    monkeypatch.setattr(training, "CELLS_IN_MEMORY", 80)
    rng = np.random.default_rng(0)
    train = np.sort(rng.permutation(400)[:350])
    blocks, lengths = np.arange(400) // 10, rng.integers(5, 50, 400)
    data = CellDataModule(train, np.setdiff1d(np.arange(400), train), lengths=lengths, batch_size=8, blocks=blocks)
    assert data.blocks_per_part == 4
    epochs = [data.epoch(np.random.default_rng(seed)) for seed in (0, 1)]
    for batches in epochs:
        assert sorted(np.concatenate(batches)) == train.tolist()
        assert len(batches) == len(data.train_dataloader())
        # A batch is of one part, or of the end of one and the beginning of the next.
        for first, second in pairwise(batches):
            assert len(np.unique(blocks[first])) <= 2 * data.blocks_per_part
            assert len(np.unique(blocks[np.concatenate([first, second])])) <= 3 * data.blocks_per_part
        assert np.mean([len(np.unique(blocks[batch])) for batch in batches]) > 2
    order = [np.concatenate(batches).tolist() for batches in epochs]
    assert order[0] != order[1]
    held_out = blocks[np.concatenate(data.validation_batches)] // data.blocks_per_part
    assert (np.diff(held_out) >= 0).all()


def test_ways_of_others_to_read_from_disk_name_ours():
    model = registered("celler")
    with pytest.raises(ValueError, match=r"Celler is not set up by setup_annbatch.*Celler\.setup_anndata\(.*read_lazy"):
        type(model).setup_annbatch(None)
    with pytest.raises(TypeError, match=r"no argument 'datamodule'.*Celler\.setup_anndata\(.*read_lazy"):
        model.train(datamodule=None, **HOW)


@pytest.mark.parametrize("name", ["cellplm", "langcell", "cellnamer"])
def test_of_a_lazily_opened_store_columns_are_read_and_counts_stay(name: str, tmp_path: Path, run_fix: Any):
    training_cells().write_zarr(tmp_path / "cells.zarr")
    adata = read_lazy(tmp_path / "cells.zarr")
    with pytest.raises(ValueError, match="obs was opened lazily") as refused:
        registered(name, adata)
    line = "adata = anndata.AnnData(adata.X, obs=adata.obs.to_memory(), var=adata.var.to_memory())"
    mended = run_fix(line, refused.value, adata)
    registered(name, mended).train(**HOW)


@pytest.mark.usefixtures("from_disk")
@pytest.mark.parametrize("name", [name for name in MODELS if name != "small"])
def test_the_same_is_learned_from_a_file_as_from_memory(name: str, tmp_path: Path):
    adata = training_cells()
    adata.write_h5ad(tmp_path / "cells.h5ad")
    in_memory = registered(name, adata)
    torch.set_num_threads(1)  # more add up in another order, and numba, once started, sets another number
    in_memory.train(**HOW)
    # All cells are in one block here, so that their order is the same.
    learned = registered(name, read_h5ad(tmp_path / "cells.h5ad", backed="r"))
    torch.set_num_threads(1)
    learned.train(**HOW)
    for key, value in in_memory.module.state_dict().items():
        torch.testing.assert_close(learned.module.state_dict()[key], value, rtol=0, atol=0, msg=key)


@pytest.mark.usefixtures("from_disk")
@pytest.mark.parametrize("how", ["backed", "lazy"])
def test_an_epoch_reads_every_cell_about_once(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(located, "ROWS_TOGETHER", 10)
    monkeypatch.setattr(training, "CELLS_IN_MEMORY", 100)
    monkeypatch.setattr("scfoundry.data.matrix.kept_blocks.CELLS_IN_MEMORY", 100)
    adata = training_cells(200)
    if how == "backed":
        adata.write_h5ad(tmp_path / "cells.h5ad")
        opened: AnnData = read_h5ad(tmp_path / "cells.h5ad", backed="r")
    else:
        adata.write_zarr(tmp_path / "cells.zarr")
        opened = read_lazy(tmp_path / "cells.zarr")
        opened.X = opened.X.rechunk((10, -1))
    model, loaded = registered("celler", opened), []
    stored_rows = CountsReader._stored_rows
    monkeypatch.setattr(
        CountsReader, "_stored_rows", lambda self, rows: (loaded.append(len(rows)), stored_rows(self, rows))[1]
    )
    model.train(batch_size=20, validation_size=0.0, **HOW)
    assert max(loaded) == 10
    assert 200 <= sum(loaded) <= 1.5 * 200
