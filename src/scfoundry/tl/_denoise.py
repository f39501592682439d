"""Expected counts of every gene in every cell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd

from scfoundry._keys import Keys
from scfoundry._settings import logger
from scfoundry.data.modality import to_write
from scfoundry.tl._opening import check_return, open_fitted, quoted, record, seed_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from anndata import AnnData
    from mudata import MuData
    from numpy.typing import NDArray

    from scfoundry._device import Precision
    from scfoundry.data.genes import GeneVocabulary
    from scfoundry.data.matrix.reader import CountsReader
    from scfoundry.model import FoundationModel
    from scfoundry.tasks import Denoiser

__all__ = ["denoise"]

CALLER = "sf.tl.denoise"
PATIENCE = 20


def denoise(
    adata: AnnData | MuData,
    model: str | Path | FoundationModel | Denoiser = "cellplm",
    *,
    fine_tune: bool = True,
    given_detected: bool = False,
    genes: Sequence[str] | None = None,
    layer: str | None = None,
    batch_key: str | None = None,
    spatial_key: str | None = None,
    max_epochs: int | None = None,
    patience: int = PATIENCE,
    modality: str = Keys.RNA,
    rng: int | np.random.Generator | None = 0,
    key_added: str = Keys.DENOISED,
    device: str = "auto",
    precision: Precision = "auto",
    batch_size: int | None = None,
    copy: bool = False,
    return_fitted: bool = False,
) -> AnnData | MuData | Denoiser | None:
    """Replace counts by the counts that are expected of a cell.

    Expected counts are on the scale of what was observed: a deep cell stays a deep one, and ``sc.pp.normalize_total``
    goes on from there. They mix what the model's decoder, fine-tuned on these very cells, expects of a cell and what
    its nearest cells have on average; counts that were hidden from both decide how much each is worth. A model without
    a decoder of counts expects the mean of the nearest cells in its embedding.

    Parameters
    ----------
    adata
        Cells x genes with raw counts; in memory, backed or dask. Of a `MuData`, one modality is denoised. Counts are
        read into memory, sparse; the result is dense by nature, 4 bytes times cells times genes.
    model
        A model (``"cellplm"``: its default weights), a name of `sf.model.list_pretrained`, a folder, or a loaded model;
        or a `sf.tasks.Denoiser`, or the folder of one, which is used as it was fitted.
    fine_tune
        Learn from ``adata``, in a copy of the model. Without it the pretrained decoder alone is asked, which knows
        neither the data's technology nor genes that are special to it: a quick look at best.
    given_detected
        Expected count if the gene is detected in the cell, at least 1 in cells with counts: what to compare with counts
        that are known not to be 0. The plain expectation is what analyses need. Genes that the model does not know keep
        their observed counts, zeros included.
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
    return_fitted
        Return what was fitted, to save it or to denoise other cells with it.

    Returns
    -------
    `None`, the copy if ``copy=True``, or the `sf.tasks.Denoiser` if ``return_fitted=True``. With ``key_added`` for
    ``denoised``, sets:

    ``adata.layers["denoised"]``
        Expected counts, float32, (n_obs, n_vars). Those of the genes that the model knows sum to a cell's observed
        counts of these genes (not with ``given_detected``). Genes that it does not know keep their observed counts, and
        cells without counts stay empty.
    ``adata.obsm["denoised"]``
        With ``genes``, instead of the layer: data frame, float32, (n_obs, n_genes).
    ``adata.uns["denoised"]``
        ``"params"``: the arguments, and as ``"method"`` what the values are made of (``"decoder and neighbours"``,
        ``"decoder"`` or ``"neighbours"``); ``"scale"``: what the values are; ``"not_denoised"``: genes that keep their
        observed counts; ``"validation"``, if fitted: root mean squared errors on hidden counts in log1p of counts per
        10,000, beside those of a count of 1, epochs, and weight of the nearest cells; ``"provenance"``: weights with
        their checksum, licence, citation, versions, and how each gene was matched.

    Raises
    ------
    ValueError
        If the values are not raw counts; if too few genes are known, or one of ``genes`` is not in ``adata`` or not
        known; if a key does not exist or an argument is out of range; if ``adata`` is a view of data on disk. Nothing
        has been computed then, and nothing written.
    FileNotFoundError
        If there are no such weights.

    Examples
    --------
    >>> import scfoundry as sf
    >>> sf.tl.denoise(adata, layer="counts", max_epochs=5)  # doctest: +SKIP
    >>> adata.layers["denoised"]  # doctest: +SKIP
    """
    from scfoundry._device import Compute
    from scfoundry.data.matrix.cells import Cells
    from scfoundry.tasks.denoising.denoiser import Denoiser

    _check(max_epochs, patience)
    check_return(copy=copy, return_fitted=return_fitted, caller=CALLER)
    adata, target = to_write(adata, modality, copy=copy, caller=CALLER)
    compute = Compute.resolve(device, precision, batch_size)
    opened = open_fitted(model, Denoiser, caller=CALLER)
    fitted = isinstance(opened, Denoiser)
    if fitted:
        _refuse_learning(max_epochs, patience, rng)
    loaded = opened.model if fitted else opened
    keys: dict[str, Any] = {"layer": layer, "batch_key": batch_key, "spatial_key": spatial_key}
    cells = Cells.of(target, loaded.genes, **keys, caller=CALLER, allow_log1p=False)
    alignment = cast("CountsReader", cells.source).alignment
    columns = None if genes is None else _columns(target, genes, alignment.dropped, loaded.genes)

    how = "as fitted" if fitted else "to be fitted" if fine_tune else "as pretrained"
    logger.info(f"{loaded.provenance['weights']} on {compute.device}, {how}: {cells.summary()}")
    if fitted:
        denoiser = opened
    elif fine_tune:
        seed = int(np.random.default_rng(rng).integers(2**31))
        denoiser = Denoiser.fit(loaded, cells, max_epochs=max_epochs, patience=patience, seed=seed, compute=compute)
    else:
        denoiser = Denoiser.as_pretrained(loaded)
    expected = denoiser.predict(cells, columns=columns, given_detected=given_detected, compute=compute)

    params = keys | {
        "fine_tune": fine_tune and not fitted,
        "given_detected": given_detected,
        "genes": None if genes is None else list(genes),
        "max_epochs": max_epochs,
        "patience": patience,
        "rng": seed_of(rng),
        "precision": precision,
        "method": denoiser.method,
    }
    origin = record(loaded, cells, params) | {
        "scale": f"expected counts at the cell's own depth{', given detection' if given_detected else ''}",
        "not_denoised": alignment.names[alignment.dropped].astype(str),
        **({"validation": dict(denoiser.validation)} if denoiser.validation else {}),
    }
    if columns is None:
        target.layers[key_added] = expected
    else:
        target.obsm[key_added] = pd.DataFrame(expected, target.obs_names, target.var_names[columns].astype(str))
    target.uns[key_added] = origin
    if return_fitted:
        return denoiser
    return adata if copy else None


def _check(max_epochs: int | None, patience: int) -> None:
    if max_epochs is not None and max_epochs < 1:
        msg = f"max_epochs must be at least 1; got {max_epochs}. Without fine-tuning: fine_tune=False."
        raise ValueError(msg)
    if patience < 1:
        msg = f"patience is a number of epochs and at least 1; got {patience}. The default: patience=20."
        raise ValueError(msg)


def _refuse_learning(max_epochs: int | None, patience: int, rng: int | np.random.Generator | None) -> None:
    """A fitted denoiser learns no more."""
    given = {"max_epochs": max_epochs is not None, "patience": patience != PATIENCE, "rng": rng not in (0, None)}
    if names := [name for name, is_given in given.items() if is_given]:
        msg = (
            f"A fitted denoiser learns no more, so that {', '.join(names)} would have no effect. Leave it out, or fit "
            'anew: sf.tl.denoise(adata, model="cellplm", ...).'
        )
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
            f"{len(absent)} of {len(genes)} genes are not in adata.var_names: {quoted(absent, 5)}. Its names look like "
            f"{quoted(adata.var_names[:3])}. Keep those it has: genes = [g for g in genes if g in adata.var_names]."
        )
        raise ValueError(msg)
    unknown = adata.var_names[np.intersect1d(found, dropped)]
    if len(unknown):
        msg = (
            f"The model does not know {len(unknown)} of {len(genes)} genes: {quoted(unknown, 5)}; its vocabulary has "
            f"{len(vocabulary):,} genes. Leave them out of genes, or genes=None keeps their observed counts."
        )
        raise ValueError(msg)
    return found
