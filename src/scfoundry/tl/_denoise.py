"""Expected counts of every gene in every cell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scfoundry._keys import Keys
from scfoundry._said_once import said_once
from scfoundry._settings import logger
from scfoundry.data.modality import to_write

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from anndata import AnnData
    from mudata import MuData
    from numpy.typing import NDArray

    from scfoundry._device import Precision
    from scfoundry.data.genes import GeneVocabulary
    from scfoundry.model import FoundationModel

__all__ = ["denoise"]

CALLER = "sf.tl.denoise"


@said_once()
def denoise(
    adata: AnnData | MuData,
    model: str | Path | FoundationModel = "cellplm",
    *,
    fine_tune: bool = True,
    given_detected: bool = False,
    genes: Sequence[str] | None = None,
    layer: str | None = None,
    batch_key: str | None = None,
    spatial_key: str | None = None,
    max_epochs: int | None = None,
    patience: int = 20,
    modality: str = Keys.RNA,
    rng: int | np.random.Generator | None = 0,
    key_added: str = Keys.DENOISED,
    device: str = "auto",
    precision: Precision = "auto",
    batch_size: int | None = None,
    copy: bool = False,
) -> AnnData | MuData | None:
    r"""Replace counts by the counts that are expected of a cell.

    The model expects shares :math:`p_{ij}` of the genes in a cell's counts. Times the cell's observed total they are
    expected counts :math:`\mu_{ij}`, on the scale of what was observed: a deep cell stays a deep one, and
    ``sc.pp.normalize_total`` goes on from there.

    With ``fine_tune`` a copy of the model learns the shares on these very cells. It recovers counts that were hidden
    from it, stops when counts that were hidden for good are no longer told better, and by those it decides, too, how
    much the mean of the nearest cells counts beside the decoder (`CellPLM.fit_denoiser`). Without it the pretrained
    decoder speaks, which knows neither the data's technology nor genes that are special to it: a quick look at best.

    Parameters
    ----------
    adata
        Cells x genes with raw counts; in memory, backed or dask. Of a `MuData`, one modality is denoised. Counts are
        read into memory, sparse; the result is dense by nature, 4 bytes times cells times genes.
    model
        A model (``"cellplm"``: its default weights), a name of `sf.model.list_pretrained`, a folder, or a loaded model,
        such as one that `CellPLM.fit_denoiser` gave (with ``fine_tune=False``).
    fine_tune
        Fine-tune a copy of the model on ``adata`` before.
    given_detected
        Expected count if the gene is detected in the cell, :math:`E[x \mid x > 0] = \mu / (1 - e^{-\mu})` (Poisson), at
        least 1 in cells with counts: what to compare with counts that are known not to be 0. The plain expectation is
        what analyses need. Genes that the model does not know keep their observed counts, zeros included.
    genes
        Names of the genes to denoise. The result is a table of them in ``obsm`` instead of a layer of all genes; the
        fit reads all genes anyway.
    layer
        Layer with the counts, ``X`` if `None`.
    batch_key
        Column of ``obs`` that names the sample of a cell: cells of a sample inform each other. All samples are taken to
        measure the genes of ``adata``; where panels differ, denoise one panel at a time.
    spatial_key
        Key of ``obsm`` with coordinates, for models with positions.
    max_epochs
        Most passes over the cells when fine-tuning; as many as make about 1,200 steps if `None`.
    patience
        Passes without a lower error on hidden counts before fine-tuning stops.
    modality
        Modality of a `MuData`.
    rng
        Seed or generator, for fine-tuning.
    key_added
        Name for the results.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``.
    precision
        ``"float32"``, ``"bfloat16"`` for the matrix products of the encoder, or ``"auto"``: bfloat16 on CUDA, float32
        elsewhere.
    batch_size
        Cells on the device at a time when embedding; chosen for the device if `None`.
    copy
        Return a changed copy, in memory, instead of changing ``adata``.

    Returns
    -------
    `None`, or the copy if ``copy=True``. With ``key_added`` for ``denoised``, sets:

    ``adata.layers["denoised"]``
        Expected counts, float32, (n_obs, n_vars). Those of the genes that the model knows sum to a cell's observed
        counts of these genes (not with ``given_detected``). Genes that it does not know keep their observed counts, and
        cells without counts stay empty.
    ``adata.obsm["denoised"]``
        With ``genes``, instead of the layer: data frame, float32, (n_obs, n_genes).
    ``adata.uns["denoised"]``
        ``"params"``: the arguments; ``"scale"``: what the values are; ``"not_denoised"``: genes that keep their
        observed counts; ``"validation"``, if fine-tuned: root mean squared errors on hidden counts in log1p of counts
        per 10,000, beside those of a count of 1, epochs, and weight of the nearest cells; ``"provenance"``: weights
        with their checksum, licence, citation, versions, and how each gene was matched.

    Raises
    ------
    ValueError
        If the values are not raw counts; if too few genes are known, or one of ``genes`` is not in ``adata`` or not
        known; if a key does not exist or an argument is out of range; if the model has no decoder of counts; if
        ``adata`` is a view of data on disk. Nothing has been computed then, and nothing written.
    FileNotFoundError
        If there are no such weights.

    Examples
    --------
    >>> import scfoundry as sf
    >>> sf.tl.denoise(adata, layer="counts", max_epochs=5)  # doctest: +SKIP
    >>> adata.layers["denoised"]  # doctest: +SKIP
    """
    from scfoundry._device import autocast, resolve_device
    from scfoundry.data.matrix.checks import require_counts
    from scfoundry.data.matrix.contexts import contexts, coordinates
    from scfoundry.model._base import FoundationModel
    from scfoundry.model._load import load_pretrained
    from scfoundry.model._offers import denoises

    _check(max_epochs, patience, batch_size)
    adata, cells = to_write(adata, modality, copy=copy, caller=CALLER)
    groups = contexts(cells, batch_key)
    coordinates(cells, spatial_key, groups)
    torch_device = resolve_device(device)
    autocast(torch_device, precision)
    loaded = model if isinstance(model, FoundationModel) else load_pretrained(model)
    denoiser: Any = denoises(loaded, caller=CALLER)
    report = require_counts(cells, layer=layer, caller=CALLER)
    alignment = loaded.genes.align(cells)
    columns = None if genes is None else _columns(cells, genes, alignment.dropped, loaded.genes)
    generator = np.random.default_rng(rng)

    samples = f"{len(groups)} contexts" if len(groups) > 1 else "one context"
    logger.info(
        f"{loaded.provenance['weights']} on {torch_device}: {cells.n_obs:,} cells in {samples}, "
        f"{'fine-tuned' if fine_tune else 'as pretrained'}; {alignment.summary()}"
    )
    where: dict[str, Any] = {"layer": layer, "batch_key": batch_key, "spatial_key": spatial_key}
    how: dict[str, Any] = where | {"device": device, "precision": precision}
    if fine_tune:
        seed = int(generator.integers(2**31))
        denoiser = denoiser.fit_denoiser(cells, max_epochs=max_epochs, patience=patience, seed=seed, **how)
    expected = denoiser.denoise(cells, columns=columns, given_detected=given_detected, batch_size=batch_size, **how)

    if columns is None:
        cells.layers[key_added] = expected
    else:
        cells.obsm[key_added] = pd.DataFrame(expected, cells.obs_names, cells.var_names[columns].astype(str))
    params = where | {
        "fine_tune": fine_tune,
        "given_detected": given_detected,
        "genes": None if genes is None else list(genes),
        "max_epochs": max_epochs,
        "patience": patience,
        "rng": rng if isinstance(rng, int | np.integer) else None,
        "precision": precision,
    }
    cells.uns[key_added] = {
        Keys.PARAMS: {name: value for name, value in params.items() if value is not None},
        "scale": f"expected counts at the cell's own depth{', given detection' if given_detected else ''}",
        "not_denoised": alignment.names[alignment.dropped].astype(str),
        **({"validation": denoiser.validation_} if fine_tune else {}),
        Keys.PROVENANCE: loaded.provenance | {"values": str(report.state), "genes": alignment.report()},
    }
    return adata if copy else None


def _check(max_epochs: int | None, patience: int, batch_size: int | None) -> None:
    if max_epochs is not None and max_epochs < 1:
        msg = f"max_epochs must be at least 1; got {max_epochs}. Without fine-tuning: fine_tune=False."
        raise ValueError(msg)
    if batch_size is not None and batch_size < 1:
        msg = f"batch_size must be at least 1 cell; got {batch_size}. What suits the device: batch_size=None."
        raise ValueError(msg)
    if patience < 1:
        msg = f"patience is a number of epochs and at least 1; got {patience}. The default: patience=20."
        raise ValueError(msg)


def _columns(
    adata: AnnData, genes: Sequence[str], dropped: NDArray[np.int64], vocabulary: GeneVocabulary
) -> NDArray[np.int64]:
    """Columns of the genes asked for."""
    if isinstance(genes, str):
        msg = f"genes is a list of names; got the text {genes!r}. Pass genes=[{genes!r}]."
        raise ValueError(msg)
    if not len(genes):
        msg = "genes is empty. Name the genes to denoise, or leave genes=None for all of them."
        raise ValueError(msg)
    found = adata.var_names.get_indexer_for(list(genes))
    absent = [gene for gene in genes if gene not in adata.var_names]
    if absent:
        msg = (
            f"{len(absent)} of {len(genes)} genes are not in adata.var_names: {_some(absent)}. Its names look like "
            f"{_some(adata.var_names[:3])}. Keep those it has: genes = [g for g in genes if g in adata.var_names]."
        )
        raise ValueError(msg)
    unknown = adata.var_names[np.intersect1d(found, dropped)]
    if len(unknown):
        msg = (
            f"The model does not know {len(unknown)} of {len(genes)} genes: {_some(unknown)}; its vocabulary has "
            f"{len(vocabulary):,} genes. Leave them out of genes, or genes=None keeps their observed counts."
        )
        raise ValueError(msg)
    return found


def _some(names: Sequence[str] | pd.Index) -> str:
    return ", ".join(map(repr, names[:5])) + (", ..." if len(names) > 5 else "")
