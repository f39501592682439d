"""An AnnData in a file or a folder, whose results are written there: read part by part, and whole at any time."""

from __future__ import annotations

import os
import shutil
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import h5py
import numpy as np
import pandas as pd
import zarr
from anndata import AnnData
from anndata.io import read_elem, sparse_dataset, write_elem

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scfoundry.data.unfinished import RowsOnDisk

__all__ = ["Store"]

HDF5, ZARR = ".h5ad", ".zarr"
ARRAY = {"encoding-type": "array", "encoding-version": "0.2.0"}
SPARSE = ("csr_matrix", "csc_matrix")
# Values of a chunk of a zarr array, 4 MB, and rows that are written at a time where there are no chunks.
VALUES_PER_CHUNK, ROWS_AT_ONCE = 2**20, 2**16


class Store:
    """Where an AnnData lies: an ``.h5ad`` file, or a ``.zarr`` folder of either format."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: h5py.File | None = None

    @classmethod
    def at(cls, path: str | Path, *, caller: str) -> Self:
        """The store at a path; errors say what is there instead, or why nothing can be written."""
        path = Path(path)
        if not path.exists():
            msg = (
                f"{caller}: there is no {path}, seen from {Path.cwd()}. Give the path of an .h5ad or .zarr that exists."
            )
            raise FileNotFoundError(msg)
        if path.suffix not in (HDF5, ZARR) or (path.suffix == ZARR) != path.is_dir():
            msg = (
                f"{caller} writes into an .h5ad file or a .zarr folder; {path} is neither. Convert it: "
                f'sc.read(path).write_zarr("{path.stem}.zarr"). Or read it: {caller}(adata).'
            )
            raise ValueError(msg)
        if not os.access(path, os.W_OK) or not os.access(path.parent, os.W_OK):
            msg = (
                f"{caller} writes results into {path} and, until they are complete, beside it; there is no permission "
                f"to. Leave the store as it is, and the results in memory: {caller}(adata)."
            )
            raise PermissionError(msg)
        return cls(path)

    def open(self, columns: tuple[str | None, ...]) -> AnnData:
        """An AnnData that reads values when they are asked for; of ``obs`` only what is named of ``columns``."""
        if self.path.suffix == ZARR:
            return _lazy(zarr.open_group(self.path, mode="r"), columns)
        self._file = h5py.File(self.path, "r")
        return _lazy(self._file, columns)

    def close(self) -> None:
        """Close the file; what was opened reads nothing any more."""
        if self._file is not None:
            self._file.close()

    def require_room(self, n_bytes: int, *, caller: str) -> None:
        """Refuse, by an OSError, to begin what the disk has no room for; an HDF5 file is written as a copy."""
        needed = n_bytes + (self.path.stat().st_size if self.path.suffix == HDF5 else 0)
        free = shutil.disk_usage(self.path.parent).free
        if needed > free:
            also = " An .h5ad is copied once, a .zarr is not: convert it." if self.path.suffix == HDF5 else ""
            msg = (
                f"{caller} needs {needed / 1e9:,.1f} GB in {self.path.parent}, which has {free / 1e9:,.1f}.{also} Or "
                f"keep the results in memory: {caller}(adata)."
            )
            raise OSError(msg)

    def write(self, results: Mapping[str, Any], folder: Path) -> None:
        """Write results by address (``"obsm/X_pca"``), arrays as `RowsOnDisk`; those of an earlier call are replaced.

        Whoever opens the store meanwhile finds none of them, or all. Ended anywhere, the same call completes it.
        ``folder``: beside the store, for what is not yet complete.
        """
        if self.path.suffix == ZARR:
            self._into_folder(results, folder / "slots.zarr")
        else:
            self._into_copy(results, folder / "copy.h5ad")

    def _into_folder(self, results: Mapping[str, Any], beside: Path) -> None:
        """Write arrays beside the store, and move their folders into it: to rename is one step, to write is not."""
        store: Any = zarr.open_group(self.path, mode="r+", use_consolidated=False)
        consolidated = zarr.open_group(self.path, mode="r").metadata.consolidated_metadata is not None
        parts = zarr.open_group(beside, mode="w", zarr_format=store.metadata.zarr_format)
        for address, value in results.items():
            _write(parts, address.replace("/", "."), value)
            slot, _, key = address.partition("/")
            if slot not in store:
                write_elem(store, slot, {})
            if key in store[slot]:
                del store[slot][key]

        def listed() -> None:
            if consolidated:
                with warnings.catch_warnings():
                    warnings.filterwarnings("ignore", "Consolidated metadata")  # of format 3, which has no standard yet
                    zarr.consolidate_metadata(self.path)

        listed()  # what is replaced is gone: whoever reads by the list would take the new for it
        for address in sorted(results, reverse=True):  # the record first: no array is without one
            (beside / address.replace("/", ".")).rename(self.path / address)
        listed()

    def _into_copy(self, results: Mapping[str, Any], beside: Path) -> None:
        """Write into a copy, and put it in the place of the file: one that is changed in place is none until closed."""
        self.close()
        shutil.copy2(self.path, beside)
        with h5py.File(beside, "r+") as file:
            for address, value in results.items():
                slot, _, key = address.partition("/")
                if slot not in file:
                    write_elem(file, slot, {})
                if key in file[slot]:
                    del file[slot][key]
                _write(file[slot], key, value)
        with beside.open("rb+") as written:
            os.fsync(written.fileno())
        beside.replace(self.path)


def _lazy(root: Any, columns: tuple[str | None, ...]) -> AnnData:
    def located(node: Any) -> Any:
        return sparse_dataset(node) if node.attrs.get("encoding-type") in SPARSE else node

    def arrays(slot: str) -> dict[str, Any]:
        return {name: located(root[slot][name]) for name in root[slot]} if slot in root else {}

    tables = {name: node for name, node in arrays("obsm").items() if isinstance(node, h5py.Dataset | zarr.Array)}
    matrix = located(root["X"]) if "X" in root else None
    return AnnData(matrix, _obs(root["obs"], columns), read_elem(root["var"]), layers=arrays("layers"), obsm=tables)


def _obs(node: Any, columns: tuple[str | None, ...]) -> pd.DataFrame:
    """Names of cells and some columns; all of them where one of these does not exist, for the message."""
    wanted = [name for name in columns if name is not None]
    if isinstance(node, h5py.Dataset) or not all(name in node for name in wanted):
        return read_elem(node)
    names = pd.Index(read_elem(node[node.attrs["_index"]])).astype(str)
    return pd.DataFrame({name: read_elem(node[name]) for name in wanted}, index=names)


def _write(group: Any, key: str, value: RowsOnDisk | Any) -> None:
    if not hasattr(value, "blocks"):
        write_elem(group, key, value)
        return
    shape = value.shape
    if isinstance(group, h5py.Group):
        array, n_rows = group.create_dataset(key, shape=shape, dtype=value.dtype), ROWS_AT_ONCE
    else:
        n_rows = max(1, VALUES_PER_CHUNK // max(1, shape[1]))
        chunks = (min(n_rows, shape[0]), shape[1])
        array = group.create_array(key, shape=shape, chunks=chunks, dtype=value.dtype, fill_value=np.float32(0))
    array.attrs.update(ARRAY)
    for rows, block in value.blocks(n_rows):
        array[rows] = block
