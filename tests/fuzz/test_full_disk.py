"""A disk that fills up while a file is written: what was there before stays, and nothing half written beside it."""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import pytest
from cases import MODELS
from safetensors import SafetensorError

from scfoundry import _files
from scfoundry.tasks.denoising.denoiser import Denoiser

resource = pytest.importorskip("resource", reason="only POSIX limits the length of files")

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@contextmanager
def room_for(n_bytes: int) -> Iterator[None]:
    """No file of this process may become longer."""
    handler, (soft, hard) = signal.getsignal(signal.SIGXFSZ), resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


def cells(path: Path, adata, model) -> None:
    _files.write(adata, path / "cells.h5ad", [])


def store(path: Path, adata, model) -> None:
    _files.write(adata, path / "cells.zarr", [])


def pretrained(path: Path, adata, model) -> None:
    model.save_pretrained(path / "model")


def of_scvi(path: Path, adata, model) -> None:
    model.save(path / "model", overwrite=True)


def fitted(path: Path, adata, model) -> None:
    Denoiser.as_pretrained(model).save(path / "denoiser")


def refused(write: Callable[..., None], *what: object) -> bool:
    """Whether an error says that there is no room."""
    try:
        with room_for(2000):
            write(*what)
    except (OSError, RuntimeError, SafetensorError):
        return True
    return False


def refused_apart(write: Callable[..., None], *what: object) -> bool:
    """The same in a process that ends at once: libhdf5 crashes when it closes what it could not write."""
    process = os.fork()
    if not process:
        os._exit(0 if refused(write, *what) else 1)
    return os.waitpid(process, 0)[1] == 0


@pytest.mark.parametrize("write", [cells, store, pretrained, of_scvi, fitted])
def test_what_was_there_stays(write, make_adata, tmp_path):
    adata = make_adata(100, 40)
    adata.obsm["X"] = np.random.default_rng(0).normal(size=(100, 20))
    model = MODELS["cellplm"](adata.var_names)
    write(tmp_path, adata, model)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert before
    adata.obsm["X"] += 1
    next(model.module.parameters()).data.add_(1)
    assert (refused_apart if write is cells else refused)(write, tmp_path, adata, model)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    # With room again, the same line does it.
    write(tmp_path, adata, model)
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert after.keys() == before.keys()
    assert after != before
