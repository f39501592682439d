"""Files of cells for the shell: what kind one is, and writing that never leaves half a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from scfoundry.data.unfinished import replacing

if TYPE_CHECKING:
    from collections.abc import Iterable

    from anndata import AnnData
    from mudata import MuData

__all__ = ["check_target", "read", "write"]

KINDS = ".h5ad, .h5mu, .zarr, a 10x .h5 file, or a 10x folder with matrix.mtx(.gz)"


def read(path: Path) -> AnnData | MuData:
    """Read cells of any of the kinds; a ValueError names them for another."""
    import anndata
    import mudata
    import scanpy as sc

    if not path.exists():
        msg = f"There is no file {path}, seen from {Path.cwd()}. Give the path of cells that exist."
        raise FileNotFoundError(msg)
    if path.suffix == ".h5ad":
        return anndata.read_h5ad(path)
    if path.suffix == ".h5mu":
        return mudata.read_h5mu(path)
    if path.suffix == ".zarr":
        return anndata.read_zarr(path)
    if path.suffix == ".h5":
        adata = sc.read_10x_h5(path)
    elif path.is_dir() and any((path / name).exists() for name in ("matrix.mtx", "matrix.mtx.gz")):
        adata = sc.read_10x_mtx(path)
    else:
        msg = (
            f'{path} is none of the kinds of files that are read: {KINDS}. Convert it: adata.write_h5ad("cells.h5ad").'
        )
        raise ValueError(msg)
    adata.var_names_make_unique()
    return adata


def write(cells: AnnData | MuData, path: Path, inputs: Iterable[Path]) -> None:
    """Write cells beside where they belong and move them there when complete; an input is never overwritten."""
    check_target(path, inputs)
    with replacing(path.parent) as folder:
        part = folder / path.name
        if path.suffix == ".zarr":
            cells.write_zarr(part)
        elif path.suffix == ".h5mu":
            cells.write(part)
        else:
            cells.write_h5ad(part)


def check_target(path: Path, inputs: Iterable[Path]) -> None:
    """Refuse a target that is one of the inputs or of no known kind."""
    if any(path.resolve() == other.resolve() for other in inputs):
        msg = f"{path} is the input, which is never overwritten. Name another file."
        raise ValueError(msg)
    if path.suffix not in (".h5ad", ".h5mu", ".zarr"):
        msg = f"{path} is to be written as .h5ad, .h5mu or .zarr. Name it {path.stem}.h5ad."
        raise ValueError(msg)
