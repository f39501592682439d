"""Cells for a text, and texts for a cell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from scfoundry._arguments import checks_arguments, quoted
from scfoundry._keys import Keys, Units
from scfoundry._settings import logger
from scfoundry.data.modality import modality_of
from scfoundry.data.slots import refuse_not_finite
from scfoundry.tl._labels import labels_of, with_prompts
from scfoundry.tl._opening import announce, open_model, record

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from anndata import AnnData
    from mudata import MuData
    from numpy.typing import NDArray

    from scfoundry._device import Precision
    from scfoundry.data.labels import Label
    from scfoundry.model import FoundationModel
    from scfoundry.model._capabilities import ReadsTexts
    from scfoundry.tasks.retrieval import Hits
    from scfoundry.tl._labels import Texts

__all__ = ["retrieve"]

CALLER = "sf.tl.retrieve"
Wanted = Literal["cells", "texts"]


@checks_arguments
def retrieve(
    adata: AnnData | MuData,
    query: str | Texts,
    k: int = 10,
    *,
    find: Wanted = "cells",
    model: str | Path | FoundationModel = "cellnamer",
    use_rep: str | None = None,
    layer: str | None = None,
    modality: str = Keys.RNA,
    device: str = "auto",
    precision: Precision = "auto",
    batch_size: int | None = None,
) -> pd.DataFrame:
    """Find the cells that a text describes, or the texts that describe a cell.

    Labels are found in the Cell Ontology, free texts are read as they are; see `sf.tl.describe`. Cells without any gene
    of the model are left out, unless their embedding comes from ``use_rep``. ``adata`` is only read.

    Parameters
    ----------
    adata
        Cells x genes with raw counts, or else log1p-normalised values; in memory, backed, dask, or in a `MuData`.
    query
        One text or several, ``{label: text}``, what `sf.tl.describe` returns, or a column of ``obs``.
    k
        How many to find, at most all.
    find
        ``"cells"``: the best cells of every text, by the cosine of their embeddings; beyond 2e10 pairs through a graph
        of neighbours (pynndescent), which may miss a few. ``"texts"``: the best texts of every cell, by their
        probability among all texts given, as of `sf.tl.zero_shot_annotate` with ``adapt=False``; for one cell pass
        ``adata[["its name"]]``. Default weights read a gene in part relative to its mean and spread in these cells.
    model
        A model's name (its default weights), a name of `sf.model.list_pretrained`, a folder, or a loaded model.
    use_rep
        Key of ``obsm`` with this model's latent, if `sf.tl.embed` with ``adapt=None`` has computed it
        (``"X_cellnamer"``): searching all cells again then takes a moment. Rows are brought to length 1.
    layer, modality
        Layer with the values (``X`` if `None`), and modality of a `MuData`.
    device, precision, batch_size
        Where to compute (``"auto"``, ``"cpu"``, ``"cuda:1"``, ``"mps"``), how precisely (``"float32"``, ``"bfloat16"``
        for matrix products; ``"auto"``: bfloat16 on CUDA; ``"fastest"``: what a short measurement finds faster here),
        and how many cells at a time (if `None`, what suits the device).

    Returns
    -------
    One row per hit: ``query`` (label), ``rank`` from 1, ``obs_name`` and ``score``. Ordered by text as given when
    finding cells, by cell in obs order when finding texts; then by rank. ``attrs`` of the table hold ``"params"``, the
    arguments as they took effect, ``"provenance"`` of the weights, and the ``"units"`` of the scores.

    Raises
    ------
    ValueError
        If there is no text, or two are the same; the values are scaled, negative, NaN or neither counts nor
        log1p-normalised; too few genes are known; or an argument is out of range, a key does not exist or the model
        reads no texts.
    FileNotFoundError
        If there are no such weights.

    References
    ----------
    Zhao S. et al. LangCell: Language-Cell Pre-training for Cell Identity Understanding. ICML 2024.

    Examples
    --------
    >>> import scanpy as sc, scfoundry as sf
    >>> adata = sc.datasets.pbmc68k_reduced().raw.to_adata()
    >>> sf.tl.retrieve(adata, "cytotoxic T cell", k=3)
    >>> sf.tl.retrieve(adata[:2], ["B cell", "NK", "monocyte"], find="texts", k=1)
    """
    from scfoundry._device import Compute
    from scfoundry.data.matrix.cells import Cells
    from scfoundry.model._capabilities import ReadsTexts
    from scfoundry.tasks.annotation.zero_shot import name_cells
    from scfoundry.tasks.retrieval import best_cells, best_texts, text_directions

    labels = labels_of([query] if isinstance(query, str) else query, caller=CALLER)
    if find == "texts" and use_rep is not None:
        msg = f"use_rep={use_rep!r} serves to find cells; texts are chosen by the counts. Leave it at None."
        raise ValueError(msg)
    source = modality_of(adata, modality)
    compute = Compute.resolve(device, precision, batch_size)
    reading = open_model(model, ReadsTexts, caller=CALLER)
    labels = with_prompts(labels, reading)
    params = {"find": find, "k": k, "use_rep": use_rep, "layer": layer, "batch_size": batch_size}
    params |= {"modality": None if source is adata else modality, "precision": precision}
    if use_rep is not None:
        reading.check_labels(labels)
        latent, directions = _stored(source, use_rep), text_directions(reading, labels, compute)
        _require_one_space(latent, directions, use_rep, reading)
        hits = best_cells(latent, directions, np.ones(source.n_obs, dtype=bool), k)
        return _table(source, labels, hits, record(reading, None, params))

    cells = Cells.of(source, reading.genes, layer=layer, caller=CALLER)
    reading.check_labels(labels)
    announce(reading, compute, cells, f"{len(labels)} texts")
    present = ~cells.empty
    if not present.any():
        msg = f"None of the {cells.n_obs:,} cells has a count of any gene of the model. Pass the layer with counts."
        raise ValueError(msg)
    if find == "cells":
        latent = reading.embed(cells, compute)
        refuse_not_finite(latent, "the embedding", caller=CALLER)
        hits = best_cells(latent, text_directions(reading, labels, compute), present, k)
    else:
        if len(labels) == 1:
            logger.warning(
                '%s: of one text the probability is always 1; give all that may fit, or rank cells: find="cells".',
                CALLER,
            )
        scores = name_cells(reading, cells, labels, adapt=False, compute=compute)
        hits = best_texts(scores.probabilities, present, k)
        params |= dict(scores.params)
    return _table(source, labels, hits, record(reading, None, params))


def _stored(adata: AnnData, use_rep: str) -> NDArray[np.float32]:
    if use_rep not in adata.obsm:
        msg = (
            f"adata.obsm has no {use_rep!r}; its keys: {quoted(adata.obsm)}. Compute it: "
            "sf.tl.embed(adata, model=..., adapt=None)."
        )
        raise ValueError(msg)
    stored = np.asarray(adata.obsm[use_rep], dtype=np.float32)
    lengths = np.linalg.norm(stored, axis=1, keepdims=True)
    if n_lost := int((~np.isfinite(lengths) | (lengths == 0)).sum()):
        msg = (
            f"{n_lost} of {adata.n_obs:,} cells have no direction in adata.obsm[{use_rep!r}]: NaN, infinite or all 0. "
            f'Leave them out: length = np.linalg.norm(adata.obsm["{use_rep}"], axis=1); '
            "adata = adata[np.isfinite(length) & (length > 0)]."
        )
        raise ValueError(msg)
    return stored / lengths


def _require_one_space(
    latent: NDArray[np.float32], directions: NDArray[np.float32], use_rep: str, model: ReadsTexts
) -> None:
    if latent.shape[1] != directions.shape[1]:
        msg = (
            f"adata.obsm[{use_rep!r}] has {latent.shape[1]} columns, but {model.provenance['weights']} embeds in "
            f"{directions.shape[1]}: it is adapted to data, or of another model. Compute this one's: "
            "sf.tl.embed(adata, model=..., adapt=None)."
        )
        raise ValueError(msg)


def _table(adata: AnnData, labels: Sequence[Label], hits: Hits, origin: dict[str, Any]) -> pd.DataFrame:
    """One row per hit, with the arguments and the weights that it comes from."""
    names = np.array([label.name for label in labels], dtype=object)
    refuse_not_finite(hits.scores, "the scores", caller=CALLER)
    n_queries, n_hits = hits.scores.shape
    table = pd.DataFrame(
        {
            "query": names[hits.labels.ravel()],
            "rank": np.tile(np.arange(1, n_hits + 1), n_queries),
            "obs_name": adata.obs_names.to_numpy()[hits.rows.ravel()],
            "score": hits.scores.ravel().astype(np.float32),
        }
    )
    units = Units.SIMILARITY if origin[Keys.PARAMS]["find"] == "cells" else Units.PROBABILITY
    table.attrs = origin | {Keys.VERB: CALLER, Keys.UNITS: units}
    return table
