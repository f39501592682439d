"""Expected counts of every gene in every cell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from scfoundry._arguments import checks_arguments, quoted
from scfoundry._keys import Keys, Units
from scfoundry.data.modality import to_write
from scfoundry.tl._opening import (
    announce,
    check_return,
    new_seed,
    open_fitted,
    record,
    refuse_learning,
    write_results,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    from anndata import AnnData
    from mudata import MuData
    from numpy.typing import NDArray

    from scfoundry._device import Precision
    from scfoundry.data.genes import GeneAlignment
    from scfoundry.model import FoundationModel
    from scfoundry.tasks import Denoiser

__all__ = ["denoise"]

CALLER = "sf.tl.denoise"
PATIENCE = 20


@checks_arguments
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
    distribute: bool = False,
    copy: bool = False,
    return_fitted: bool = False,
) -> AnnData | MuData | Denoiser | None:
    """Replace counts by the counts that are expected of a cell.

    Expected counts are on the scale of what was observed: a deep cell stays a deep one, and ``sc.pp.normalize_total``
    goes on from there. They mix what the model's decoder, fine-tuned on these very cells, expects of a cell and what
    its nearest cells have on average; counts that were hidden from both decide how much each is worth. In the place of
    a decoder, scPaLM reconstructs expression by its pathway tokens, as pretrained. Of genes that the model does not
    know, and with a model that does neither, the nearest cells in its embedding alone tell.

    Parameters
    ----------
    adata
        Cells x genes with raw counts; in memory, backed or dask; or a `MuData`. Counts are held in memory, sparse; the
        result is dense by nature, 4 bytes times cells times genes.
    model
        A model's name (its default weights), a name of `sf.model.list_pretrained`, a folder, or a loaded model. Or a
        `sf.tasks.Denoiser`, or its folder, which learns no more.
    fine_tune
        Learn from ``adata``, in a copy of the model. The pretrained decoder alone knows neither the data's technology
        nor genes that are special to it: a quick look at best.
    given_detected
        Expected count if the gene is detected in the cell, at least 1 in cells with counts: what to compare with counts
        that are known not to be 0. The plain expectation is what analyses need.
    genes
        Names of the genes to denoise: the result is a table of them in ``obsm`` instead of a layer of all genes. The
        fit reads all genes anyway.
    layer, modality, key_added
        Layer with the values (``X`` if `None`), modality of a `MuData`, and name for the results.
    batch_key
        Column of ``obs`` that names the sample of a cell: cells of a sample inform each other. All samples are taken to
        measure the genes of ``adata``; where panels differ, denoise one panel at a time.
    spatial_key
        Key of ``obsm`` with coordinates, for models with positions.
    max_epochs
        Most passes over the cells when fine-tuning; as many as make about 1,200 steps if `None`.
    patience
        Passes without a lower error on hidden counts before fine-tuning stops.
    rng
        Seed or generator.
    device, precision, batch_size
        Where to compute (``"auto"``, ``"cpu"``, ``"cuda:1"``, ``"mps"``), how precisely (``"float32"``, ``"bfloat16"``
        for matrix products; ``"auto"``: bfloat16 on CUDA; ``"fastest"``: what a short measurement finds faster here),
        and how many cells at a time (if `None`, what suits the device).
    distribute
        Let the workers of the active `dask.distributed` client read and denoise the contexts, one at a time,
        each with one core or GPU. The result is the same. What is learned is learned in this process.
    copy, return_fitted
        Return a changed copy, in memory, instead of changing ``adata``; or what was learned, to save or use again.

    Returns
    -------
    `None`, the copy if ``copy=True``, or the `sf.tasks.Denoiser` if ``return_fitted=True``. With ``key_added`` for
    ``denoised``, sets:

    ``adata.layers["denoised"]``
        Expected counts, float32, (n_obs, n_vars). Those of the genes that the model knows sum to a cell's observed
        counts of these genes (not with ``given_detected``). Cells without counts of these genes stay empty.
    ``adata.obsm["denoised"]``
        With ``genes``, instead of the layer: data frame, float32, (n_obs, n_genes).
    ``adata.uns["denoised"]``
        ``"params"``: the arguments, and as ``"method"`` what the values are made of (``"decoder and neighbours"``,
        ``"decoder"`` or ``"neighbours"``); ``"scale"``: what the values are; ``"neighbors_alone"``: genes that the
        model does not know, so that their values are made of the nearest cells alone; ``"validation"``, if fitted: root
        mean squared errors on hidden counts of genes that it knows, in log1p of counts per 10,000, and those of a count
        of 1, epochs, and weight of the nearest cells; ``"provenance"``: weights with their checksum, licence, citation,
        versions, and how each gene was matched.

    Raises
    ------
    ValueError
        If the values are not raw counts; too few genes are known, or one of ``genes`` is not in ``adata``; a key does
        not exist, or an argument is out of range or of no effect; or ``adata`` is a view of data on disk. Nothing has
        been computed then, and nothing written.
    FileNotFoundError
        If there are no such weights.

    Examples
    --------
    >>> import scfoundry as sf
    >>> sf.tl.denoise(adata, layer="counts", max_epochs=5)  # doctest: +SKIP
    >>> adata.layers["denoised"]  # doctest: +SKIP
    """
    from scfoundry._device import Compute
    from scfoundry._workers import Workers
    from scfoundry.data.matrix.cells import Cells
    from scfoundry.tasks.denoising.denoiser import Denoiser

    check_return(copy=copy, return_fitted=return_fitted, caller=CALLER)
    adata, target = to_write(adata, modality, copy=copy, caller=CALLER)
    compute = Compute.resolve(device, precision, batch_size)
    workers = Workers.active(caller=CALLER) if distribute else None
    denoiser, loaded = open_fitted(model, Denoiser, caller=CALLER)
    how = "as fitted" if denoiser else "to be fitted" if fine_tune else "as pretrained"
    if denoiser:
        given = {"max_epochs": max_epochs is not None, "patience": patience != PATIENCE, "rng": rng not in (0, None)}
        refuse_learning([name for name, is_given in given.items() if is_given], caller=CALLER)
    keys: dict[str, Any] = {"layer": layer, "batch_key": batch_key, "spatial_key": spatial_key}
    cells = Cells.of(target, loaded.genes, **keys, caller=CALLER, workers=workers, allow_log1p=False)
    columns = None if genes is None else _columns(target, genes)

    announce(loaded, compute, cells, what=how)
    if how == "to be fitted":
        training: dict[str, Any] = {"max_epochs": max_epochs, "patience": patience, "seed": new_seed(rng)}
        denoiser = Denoiser.fit(loaded, cells, **training, compute=compute)
    denoiser = denoiser or Denoiser.as_pretrained(loaded)
    expected = denoiser.predict(cells, columns=columns, given_detected=given_detected, compute=compute)

    params = keys | {"genes": None if genes is None else list(genes), "given_detected": given_detected}
    params |= {"fine_tune": how == "to be fitted", "max_epochs": max_epochs, "patience": patience, "rng": rng}
    params |= {"precision": precision, "method": denoiser.method}
    origin = record(loaded, cells, params) | {
        "scale": f"expected counts at the cell's own depth{', given detection' if given_detected else ''}",
        "neighbors_alone": _unknown(cells.own.alignment, columns),
        **({"validation": dict(denoiser.validation)} if denoiser.validation else {}),
    }
    slots: dict[str, Any] = {f"layers/{key_added}": expected}
    if columns is not None:
        names = target.var_names[columns].astype(str)
        slots = {f"obsm/{key_added}": pd.DataFrame(expected, target.obs_names, names)}
    write_results(target, slots | {f"uns/{key_added}": origin}, units=Units.COUNTS, caller=CALLER)
    return denoiser if return_fitted else adata if copy else None


def _columns(adata: AnnData, genes: Sequence[str]) -> NDArray[np.int64]:
    """Columns of the genes asked for."""
    if isinstance(genes, str):
        msg = f"genes is a list of names; got the text {genes!r}. Pass genes=[{genes!r}]."
        raise ValueError(msg)
    if not len(genes):
        msg = "genes is empty. Name the genes to denoise, or leave genes=None for all of them."
        raise ValueError(msg)
    if absent := [gene for gene in genes if gene not in adata.var_names]:
        msg = (
            f"{len(absent)} of {len(genes)} genes are not in adata.var_names: {quoted(absent, 5)}. Its names look like "
            f"{quoted(adata.var_names[:3])}. Keep those it has: genes = [g for g in genes if g in adata.var_names]."
        )
        raise ValueError(msg)
    return adata.var_names.get_indexer_for(list(genes))


def _unknown(alignment: GeneAlignment, columns: NDArray[np.int64] | None) -> NDArray[np.str_]:
    """Names of the columns, all if `None`, that the model does not know."""
    wanted = slice(None) if columns is None else columns
    return alignment.names[wanted][alignment.target[wanted] < 0].astype(str)
