"""One embedding for cells of several batches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scfoundry._arguments import checks_arguments, quoted, require_column
from scfoundry._keys import Keys, Units
from scfoundry._settings import logger
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
    from pathlib import Path

    import numpy as np
    from anndata import AnnData
    from mudata import MuData

    from scfoundry._device import Precision
    from scfoundry.model import FoundationModel
    from scfoundry.tasks import Integrator

__all__ = ["integrate"]

CALLER = "sf.tl.integrate"


@checks_arguments
def integrate(
    adata: AnnData | MuData,
    *,
    batch_key: str,
    model: str | Path | FoundationModel | Integrator = "celler",
    n_genes: int | None = None,
    max_epochs: int | None = None,
    layer: str | None = None,
    modality: str = Keys.RNA,
    rng: int | np.random.Generator | None = 0,
    key_added: str | None = None,
    device: str = "auto",
    precision: Precision = "auto",
    batch_size: int | None = None,
    copy: bool = False,
    return_fitted: bool = False,
) -> AnnData | MuData | Integrator | None:
    """Fine-tune a copy of a model on cells of several batches, and embed them without what sets the batches apart.

    No label is needed. Celler learns by the recipe of scGPT :cite:p:`cui2024scgpt`: hidden values of the most variable
    genes, zeros included, are guessed from the other genes and from the cell; cells that are alike are drawn together;
    inputs are normalised batch by batch; and cells learn against a head that guesses their batch. CellPLM
    :cite:p:`wen2024cellplm` goes on learning masked counts, its decoder being told the batch, so that the latent need
    not tell it.

    What sets batches apart is taken for technical: cell types or conditions that only one batch has may be mixed with
    others. `sf.tl.embed` with ``batch_key`` takes batches out in closed form, within seconds; try it first (see Notes).

    Parameters
    ----------
    adata
        Cells x genes with raw counts, or, where nothing is to be learned, log1p-normalised values; in memory, backed,
        dask, or in a `MuData`.
    batch_key
        Column of ``obs`` that names the batch of a cell: sample, donor, technology.
    model
        A model's name (its default weights), a name of `sf.model.list_pretrained`, a folder, or a loaded model, which
        stays as it is. Or a `sf.tasks.Integrator`, or its folder: then nothing is learned, and cells go where they
        would have been in the fit, those of batches that it does not know by what its batches have in common.
    n_genes
        How many genes are read, those that vary most within batches; 1,200 as published if `None`.
    max_epochs
        Passes over the cells; if `None`, 15 for Celler, and as many as make about 300 steps for CellPLM.
    layer
        Layer with the values, ``X`` if `None`.
    modality
        Modality of a `MuData`.
    rng
        Seed or generator, of everything random in learning.
    key_added
        Name for the results instead of ``"X_<model>_integrated"`` and ``"<model>_integrated"``.
    device, precision, batch_size
        As in `sf.tl.embed`.
    copy, return_fitted
        Return a changed copy, in memory, instead of changing ``adata``; or what was learned, to save or use again.

    Returns
    -------
    `None`, the copy if ``copy=True``, or the `sf.tasks.Integrator` if ``return_fitted=True``. Sets:

    ``adata.obsm["X_<model>_integrated"]`` (``key_added`` if given)
        Embedding, float32, (n_obs, n_latent).
    ``adata.uns["<model>_integrated"]`` (``key_added`` if given)
        ``"params"``: the arguments; ``"integration"``: ``"batches"`` of the fit, the batches that are ``"unseen"``, and
        ``"genes"`` that are read; ``"provenance"``: weights, licence, citation, versions, and how genes were matched.

    Raises
    ------
    ValueError
        If the values are scaled, negative, NaN or not counts; too few genes are known; a key
        does not exist, or cells have no batch; there is a single batch to learn from; the model has no such training,
        or an argument no effect; a GPU is not there; or ``adata`` is a view of data on disk. Nothing has been computed
        then.
    FileNotFoundError
        If there are no such weights.

    Notes
    -----
    On ``pbmc_3tech_1200``, three chemistries of 10x, fine-tuning raised the total of scib-metrics of ``cellplm-mini``
    from 0.631 to 0.719 (batch correction 0.528 to 0.694), `sf.tl.embed` with ``batch_key`` to 0.775 (0.845); one seed
    (``python -m benchmarks integrate``). How well Celler integrates was not measured.

    Examples
    --------
    >>> import scanpy as sc, scfoundry as sf
    >>> adata = sc.datasets.pbmc68k_reduced().raw.to_adata()
    >>> sf.tl.integrate(adata, batch_key="phase", model="cellplm", max_epochs=1)
    >>> sc.pp.neighbors(adata, use_rep="X_cellplm_integrated")
    """
    from scfoundry._device import Compute
    from scfoundry.data.matrix.cells import Cells
    from scfoundry.model._capabilities import FineTunesIntegration, require
    from scfoundry.tasks.integration.integrator import N_GENES, Integrator, require_batches

    check_return(copy=copy, return_fitted=return_fitted, caller=CALLER)
    adata, target = to_write(adata, modality, copy=copy, caller=CALLER)
    compute = Compute.resolve(device, precision, batch_size)
    require_column(target.obs, batch_key, fix="batch_key")
    fitted, loaded = open_fitted(model, Integrator, caller=CALLER)
    if fitted:
        given = {"n_genes": n_genes, "max_epochs": max_epochs}
        refuse_learning([name for name, value in given.items() if value is not None], caller=CALLER)
    else:
        require(loaded, FineTunesIntegration, caller=CALLER)
    keys: dict[str, Any] = {"layer": layer, "batch_key": batch_key}
    cells = Cells.of(target, loaded.genes, **keys, caller=CALLER, allow_log1p=fitted is not None)
    if not fitted:
        require_batches(cells)

    announce(loaded, compute, cells, what="as fitted" if fitted else "to be fine-tuned on batches")
    if not fitted:
        how: dict[str, Any] = {"n_genes": n_genes or N_GENES, "max_epochs": max_epochs, "seed": new_seed(rng)}
        fitted = Integrator.fit(loaded, cells, **how, compute=compute)
    if unseen := fitted.unseen(cells):
        logger.warning(
            "Of the batches %s nothing was learned; their cells are read by what the others have in common.",
            quoted(unseen, 5),
        )
    embedding = fitted.predict(cells, compute=compute)

    params = keys | {"n_genes": n_genes, "max_epochs": max_epochs, "rng": rng, "precision": precision}
    origin = record(loaded, cells, params)
    genes = loaded.genes.ids[fitted.genes]
    origin["integration"] = {"batches": list(fitted.batches), "unseen": unseen, "genes": genes.astype(str).tolist()}
    key = Keys.integrated(origin[Keys.PROVENANCE]["model"])
    slots = {f"obsm/{key_added or Keys.embedding(key)}": embedding, f"uns/{key_added or key}": origin}
    write_results(target, slots, units=Units.LATENT, caller=CALLER)
    return fitted if return_fitted else adata if copy else None
