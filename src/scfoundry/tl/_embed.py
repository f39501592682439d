"""Cell embeddings of a pretrained model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scfoundry._arguments import checks_arguments
from scfoundry._keys import Keys, Units
from scfoundry.data.slots import refuse_meaningless
from scfoundry.tl._opening import (
    announce,
    check_return,
    new_seed,
    open_fitted,
    record,
    refuse_learning,
)

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from anndata import AnnData
    from mudata import MuData

    from scfoundry._device import Precision
    from scfoundry.model import FoundationModel
    from scfoundry.tasks import Embedder
    from scfoundry.tasks.embedding.embedder import Adaptation

__all__ = ["embed"]

CALLER = "sf.tl.embed"


@checks_arguments
def embed(
    adata: AnnData | MuData | str | Path,
    model: str | Path | FoundationModel | Embedder = "cellplm",
    *,
    adapt: Adaptation | None = "components",
    fine_tune: bool = False,
    max_epochs: int | None = None,
    layer: str | None = None,
    batch_key: str | None = None,
    spatial_key: str | None = None,
    modality: str = Keys.RNA,
    rng: int | np.random.Generator | None = 0,
    key_added: str | None = None,
    device: str = "auto",
    precision: Precision = "auto",
    batch_size: int | None = None,
    distribute: bool = False,
    copy: bool = False,
    return_fitted: bool = False,
) -> AnnData | MuData | Embedder | None:
    """Embed cells with a pretrained model, adapted to the data at hand.

    What a model knows helps where cells are like those it learned from. Beside its latent stand principal components of
    the data's own genes, those that the model does not know included; genes that were hidden decide how much the latent
    adds, if anything. With ``batch_key``, what sets batches apart is taken out. No label is needed, and
    nothing is trained unless ``fine_tune=True``. ``adapt=None`` gives the latent alone, which of a pretrained model is
    the same for a data set whatever others are at hand.

    Genes are found by name: Ensembl ids, symbols, former symbols and mouse orthologs. The order of genes and cells and
    the size of batches do not change the result. The default weights of ``"cellnamer"`` read a gene in part relative to
    its mean and spread in these very data: embed cells that are to be compared in one call.

    Parameters
    ----------
    adata
        Cells x genes with raw counts, or else log1p-normalised values; in memory, backed, dask, or in a `MuData`. Or
        the path of an ``.h5ad`` file or a ``.zarr`` folder, into which results are written, see Notes.
    model
        A model's name (its default weights), a name of `sf.model.list_pretrained`, a folder, or a loaded model. Or a
        `sf.tasks.Embedder`, or its folder, which puts cells where they would have been among those it was fitted to.
    adapt
        ``"components"`` brings latent and components together. The model's latent alone, as `get_latent_representation`
        gives it, if `None`.
    fine_tune
        Embed with a copy of the model that went on learning from these cells, without labels, by what it was
        pretrained on: for CellPLM masked counts of whole contexts :cite:p:`wen2024cellplm`. See Notes.
    max_epochs
        Passes over the cells in that training; as many as make about 300 steps if `None`. Refused without
        ``fine_tune``.
    layer
        Layer with the values, ``X`` if `None`.
    batch_key
        Column of ``obs`` that names the sample, section or field of view of a cell. Differences between samples are
        taken out (not with ``adapt=None``): leave it out where they are what you look for. Models whose unit is a
        group of cells see those of a sample together. One group of all cells if `None`.
    spatial_key
        Key of ``obsm`` with coordinates, for models with positions.
    modality
        Modality of a `MuData`.
    rng
        Seed or generator, of fine-tuning.
    key_added
        Name for the results instead of the model's.
    device, precision, batch_size
        Where to compute (``"auto"``, ``"cpu"``, ``"cuda:1"``, ``"mps"``), how precisely (``"float32"``, ``"bfloat16"``
        for matrix products; ``"auto"``: bfloat16 on CUDA; ``"fastest"``: what a short measurement finds faster here),
        and how many cells at a time (if `None`, what suits the device).
    distribute
        Let the workers of the active `dask.distributed` client read and embed the cells, each with one core or GPU. The
        result is the same. Fine-tuning stays in this process.
    copy, return_fitted
        Return a changed copy, in memory, instead of changing ``adata``; or what was learned, to save or use again.

    Returns
    -------
    `None`, the copy if ``copy=True``, or the `sf.tasks.Embedder` if ``return_fitted=True``. Sets:

    ``adata.obsm["X_<model>"]`` (``key_added`` if given)
        Embedding, float32, (n_obs, n): at most 30 components, and behind them the latent where it adds something. Of
        cells that are all alike, or a single one, the latent alone.
    ``adata.uns["<model>"]`` (``key_added`` if given)
        ``"params"``: the arguments, and as ``"method"`` what the embedding is made of (``"components and latent"``,
        ``"components"`` or ``"latent"``; after fine-tuning ``"fine-tuned latent"``); ``"adaptation"``, if adapted:
        ``"latent_weight"``, the length of the latent beside components of length 1, ``"n_batches"`` whose differences
        were taken out, and ``"explained"``, the share of hidden genes' components that neighbours explain, by weight;
        ``"provenance"``: weights with their checksum, licence, citation, versions, and how each gene was matched.

    Raises
    ------
    ValueError
        If the path is of another kind, or results of a call with other arguments, that was ended, stand beside it; the
        values are scaled, negative, NaN or neither counts nor log1p-normalised, with ``fine_tune`` if they are
        no counts; too few genes are known; a key does not exist, or an argument has no effect; the model has no
        training for ``fine_tune=True``, or no cell has counts to learn from; cells are of a batch that an embedder was
        not fitted to; a GPU is not there; or ``adata`` is a view of data on disk. Nothing has been computed then.
    FileNotFoundError
        If there are no such weights, or there is nothing at the path.
    OSError
        If there is no permission to write into the store at a path, or no room.

    Notes
    -----
    Of a store at a path neither the matrix nor the results have to fit in memory. Rows are kept as they come in a
    folder beside it, ``<path>.<key>.unfinished``; if the call was ended, the same call goes on there, and one with
    other arguments, weights or cells is refused. Complete results take their places in the store, which can be read at
    any time: in zarr by renaming, in an ``.h5ad`` as a copy that replaces the file. CellPLM begins a context anew that
    it had not completed, other models go on where they were.

    What the latent of ``cellplm-mini`` adds to components is within chance, and so is what fine-tuning adds, for which
    a CPU takes minutes: over five data sets that the weights had not seen, bio conservation is 0.782 by default, 0.790
    with ``fine_tune=True``, 0.791 by components alone and 0.751 by PCA (``python -m benchmarks embed``).

    Examples
    --------
    >>> import scanpy as sc, scfoundry as sf
    >>> adata = sc.datasets.pbmc68k_reduced().raw.to_adata()
    >>> sf.tl.embed(adata, model="cellplm")
    >>> sc.pp.neighbors(adata, use_rep="X_cellplm")

    Into a store:

    >>> adata.write_zarr("cells.zarr")
    >>> sf.tl.embed("cells.zarr", model="cellplm")
    """
    from scfoundry._device import Compute
    from scfoundry._workers import Workers
    from scfoundry.data.matrix.cells import Cells
    from scfoundry.model._capabilities import FineTunesExpression, require
    from scfoundry.tasks.embedding.embedder import Embedder
    from scfoundry.tl._targets import Target

    check_return(copy=copy, return_fitted=return_fitted, caller=CALLER)
    if max_epochs is not None and not fine_tune:
        msg = f"max_epochs={max_epochs} is of fine-tuning: fine_tune=True. The default trains nothing: leave it out."
        raise ValueError(msg)
    with Target.of(adata, modality, copy=copy, column=batch_key, caller=CALLER) as target:
        compute = Compute.resolve(device, precision, batch_size)
        embedder, loaded = open_fitted(model, Embedder, caller=CALLER)
        if embedder:
            refuse_learning(["adapt"] * (adapt is None) + ["fine_tune"] * fine_tune, caller=CALLER)
        elif fine_tune:
            require(loaded, FineTunesExpression, caller=CALLER)
        keys: dict[str, Any] = {"layer": layer, "batch_key": batch_key, "spatial_key": spatial_key}
        workers = Workers.active(caller=CALLER) if distribute else None
        cells = Cells.of(target.cells, loaded.genes, **keys, caller=CALLER, allow_log1p=not fine_tune, workers=workers)

        if embedder:
            embedder.require_known_batches(cells)

        done = ["fine-tuned"] * fine_tune + ["adapted"] * (adapt is not None)
        how = f"to be {' and '.join(done)}" if done else "as pretrained"
        announce(loaded, compute, cells, what="as fitted" if embedder else how)
        learning: dict[str, Any] = {"adapt": adapt, "fine_tune": fine_tune, "max_epochs": max_epochs}
        params = keys | learning | {"rng": rng if fine_tune else None, "precision": precision}
        name = loaded.provenance["model"]
        key = key_added or Keys.embedding(name)
        with target.keeping(key, params, cells, loaded, embedder, compute) as kept:
            if embedder is None:
                how_to: dict[str, Any] = {"seed": new_seed(rng), "compute": compute, "kept": kept}
                embedder, embedding = Embedder.fit(loaded, cells, **learning, **how_to)
            else:
                embedding = embedder.predict(cells, compute=compute, kept=kept)
            with kept.or_nothing():
                refuse_meaningless(embedding, cells, caller=CALLER)

            found = {"adapt": embedder.adapt, "fine_tune": embedder.fine_tuned, "method": embedder.method}
            origin = record(loaded, cells, params | found)
            if embedder.adapt:
                origin["adaptation"] = embedder.adaptation
            target.write({f"obsm/{key}": embedding, f"uns/{key_added or name}": origin}, units=Units.LATENT)
    return embedder if return_fitted else target.adata if copy else None
