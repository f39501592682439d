"""Cell embeddings of a pretrained model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scfoundry._keys import Keys
from scfoundry.data.modality import to_write
from scfoundry.tl._opening import announce, open_model, record

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData
    from mudata import MuData

    from scfoundry._device import Precision
    from scfoundry.model import FoundationModel

__all__ = ["embed"]

CALLER = "sf.tl.embed"


def embed(
    adata: AnnData | MuData,
    model: str | Path | FoundationModel = "cellplm",
    *,
    layer: str | None = None,
    batch_key: str | None = None,
    spatial_key: str | None = None,
    modality: str = Keys.RNA,
    key_added: str | None = None,
    device: str = "auto",
    precision: Precision = "auto",
    batch_size: int | None = None,
    copy: bool = False,
) -> AnnData | MuData | None:
    """Embed cells with a pretrained model, without training.

    Genes are found by name: Ensembl ids, symbols, former symbols and mouse orthologs. The order of genes and cells and
    the size of batches do not change the result. The default weights of ``"cellnamer"`` read a gene in part relative to
    its mean and spread in these very data: embed cells that are to be compared in one call.

    Parameters
    ----------
    adata
        Cells x genes with raw counts, or else log1p-normalised values; in memory, backed, dask, or in a `MuData`.
    model
        A model's name (its default weights), a name of `sf.model.list_pretrained`, a folder, or a loaded model.
    layer
        Layer with the values, ``X`` if `None`.
    batch_key
        Column of ``obs`` that names the sample, section or field of view of a cell, for models whose unit is a group of
        cells: those of a sample are seen together. One group of all cells if `None`.
    spatial_key
        Key of ``obsm`` with coordinates, for models with positions.
    modality
        Modality of a `MuData`.
    key_added
        Name for the results instead of the model's.
    device, precision, batch_size
        Where to compute (``"auto"``, ``"cpu"``, ``"cuda:1"``, ``"mps"``), how precisely (``"float32"``, ``"bfloat16"``
        for matrix products; ``"auto"``: bfloat16 on CUDA), and how many cells at a time (if `None`, what suits the
        device).
    copy
        Return a changed copy, in memory, instead of changing ``adata``.

    Returns
    -------
    `None`, or the copy if ``copy=True``. Sets:

    ``adata.obsm["X_<model>"]`` (``key_added`` if given)
        Embedding, float32, (n_obs, n_latent).
    ``adata.uns["<model>"]`` (``key_added`` if given)
        ``"params"``: the arguments; ``"provenance"``: weights with their checksum, licence, citation, versions, and
        how each gene was matched.

    Raises
    ------
    ValueError
        If the values are scaled, negative, NaN or neither counts nor log1p-normalised; too few genes are known; a key
        does not exist; a GPU is not there; or ``adata`` is a view of data on disk. Nothing has been computed then.
    FileNotFoundError
        If there are no such weights.

    Examples
    --------
    >>> import scanpy as sc, scfoundry as sf
    >>> adata = sc.datasets.pbmc68k_reduced().raw.to_adata()
    >>> sf.tl.embed(adata, model="cellplm")
    >>> sc.pp.neighbors(adata, use_rep="X_cellplm")
    """
    from scfoundry._device import Compute
    from scfoundry.data.matrix.cells import Cells

    adata, target = to_write(adata, modality, copy=copy, caller=CALLER)
    compute = Compute.resolve(device, precision, batch_size)
    loaded = open_model(model, caller=CALLER)
    keys: dict[str, Any] = {"layer": layer, "batch_key": batch_key, "spatial_key": spatial_key}
    cells = Cells.of(target, loaded.genes, **keys, caller=CALLER)

    announce(loaded, compute, cells)
    latent = loaded.embed(cells, compute)

    origin = record(loaded, cells, keys | {"precision": precision})
    name = origin[Keys.PROVENANCE]["model"]
    target.obsm[key_added or Keys.embedding(name)] = latent
    target.uns[key_added or name] = origin
    return adata if copy else None
