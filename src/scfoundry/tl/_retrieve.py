"""Cells for a text, and texts for a cell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import pandas as pd

from scfoundry._keys import Keys
from scfoundry._settings import logger
from scfoundry.data.modality import modality_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from anndata import AnnData
    from mudata import MuData
    from numpy.typing import NDArray

    from scfoundry._device import Precision
    from scfoundry.data.labels import Label
    from scfoundry.model import FoundationModel
    from scfoundry.model._contracts import ReadsTexts
    from scfoundry.tl._labels import Texts

__all__ = ["retrieve"]

CALLER = "sf.tl.retrieve"
Wanted = Literal["cells", "texts"]


def retrieve(
    adata: AnnData | MuData,
    query: str | Texts,
    k: int = 10,
    *,
    find: Wanted = "cells",
    model: str | Path | FoundationModel = "cellnamer",
    use_rep: str | None = None,
    top_k: int | None = None,
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
        Cells x genes with raw counts, or log1p-normalised values where there are no counts; in memory, backed or dask.
        Of a `MuData`, one modality is searched.
    query
        One text or several, ``{label: text}``, what `sf.tl.describe` returns, or a column of ``obs``.
    k
        How many to find, at most all.
    find
        ``"cells"``: the best cells of every text, by the cosine of their embeddings, which compares across cells.
        Every cell is compared with every text up to 2e10 pairs, beyond that the search goes through a graph of
        neighbours (pynndescent) and may miss a few.
        ``"texts"``: the best texts of every cell, by their probability among all texts given, as
        `sf.tl.zero_shot_annotate` computes it with ``adapt=False``. For one cell pass ``adata[["its name"]]``.

        Default weights read a gene in part relative to its mean and spread in the cells that are passed, so that the
        scores of a cell depend a little on the data set it comes in.
    model
        A model (``"cellnamer"``: its default weights), a name of `sf.model.list_pretrained`, a folder, or a loaded
        model.
    use_rep
        Key of ``obsm`` with this model's embedding, if `sf.tl.embed` has computed it (``"X_cellnamer"``): searching
        all cells again then takes a moment. Rows are brought to length 1.
    top_k
        Official weights only, when finding texts: match the ``top_k`` most similar ones with a cell, 20 as published,
        all if `None`.
    layer
        Layer with the values, ``X`` if `None`.
    modality
        Modality of a `MuData`.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``.
    precision
        ``"float32"``, ``"bfloat16"`` for the matrix products, or ``"auto"``: bfloat16 on CUDA, float32 elsewhere.
    batch_size
        Cells on the device at a time; chosen by their length if `None`.

    Returns
    -------
    One row per hit: ``query`` (label), ``rank`` from 1, ``obs_name`` and ``score``. Ordered by text as given when
    finding cells, by cell in obs order when finding texts; then by rank. ``attrs`` of the table hold ``"params"``, the
    arguments as they took effect, and ``"provenance"`` of the weights.

    Raises
    ------
    ValueError
        If there is no text, or two are the same; if the values are scaled, negative, NaN or neither counts nor
        log1p-normalised; if too few genes are known; if an argument is out of range, a key does not exist or the model
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
    from scfoundry._device import resolve_device
    from scfoundry.data.matrix.reader import CountsReader
    from scfoundry.model._base import FoundationModel
    from scfoundry.model._load import load_pretrained
    from scfoundry.model._offers import reads_texts
    from scfoundry.tl._label_slots import empty_cells
    from scfoundry.tl._labels import labels_of, with_prompts

    labels = labels_of([query] if isinstance(query, str) else query, caller=CALLER)
    _check(find, k, top_k, use_rep)
    cells = modality_of(adata, modality)
    torch_device = resolve_device(device)
    loaded = model if isinstance(model, FoundationModel) else load_pretrained(model)
    reader_of_texts = reads_texts(loaded, caller=CALLER)
    if reader_of_texts.averages_prompts:
        labels = with_prompts(labels)
    reader_of_texts.refuse_unusable(labels, top_k=top_k)
    params = {"find": find, "k": k, "use_rep": use_rep, "layer": layer, "batch_size": batch_size}
    params |= {"modality": None if cells is adata else modality, "precision": precision}
    if use_rep is not None:
        there, latent = np.arange(cells.n_obs), _stored(cells, use_rep)
    else:
        reader = CountsReader(cells, loaded.genes, layer=layer, caller=CALLER)
        logger.info(
            f"{loaded.provenance['weights']} on {torch_device}: {cells.n_obs:,} cells, {len(labels)} texts, "
            f"{reader.report.state}; {reader.alignment.summary()}"
        )
        there = np.flatnonzero(~empty_cells(reader))
        if not len(there):
            msg = f"None of the {cells.n_obs:,} cells has a count of any gene of the model. Pass the layer with counts."
            raise ValueError(msg)
        if find == "texts":
            if len(labels) == 1:
                logger.warning(
                    '%s: of one text the probability is always 1; give all that may fit, or rank cells: find="cells".',
                    CALLER,
                )
            told = reader_of_texts.zero_shot(
                reader, labels, top_k=top_k, adapt=False, batch_size=batch_size, device=device, precision=precision
            )
            hits = _best_texts(cells, labels, told.probabilities, there, k)
            return _with_origin(hits, params | dict(told.params), loaded)
        latent = loaded._embed(reader, batch_size=batch_size, device=torch_device, precision=precision)[there]
    directions = _directions(labels, reader_of_texts, device, precision)
    if latent.shape[1] != directions.shape[1]:
        msg = (
            f"adata.obsm[{use_rep!r}] has {latent.shape[1]} columns, but {loaded.provenance['weights']} embeds in "
            f"{directions.shape[1]}: it is of another model. Compute this one's: sf.tl.embed(adata, model=...)."
        )
        raise ValueError(msg)
    return _with_origin(_best_cells(cells, labels, latent, directions, there, k), params, loaded)


def _check(find: str, k: int, top_k: int | None, use_rep: str | None) -> None:
    if find not in get_args(Wanted):
        msg = f"find must be one of {', '.join(map(repr, get_args(Wanted)))}; got {find!r}."
        raise ValueError(msg)
    if k < 1:
        msg = f"k is the number of hits and at least 1; got {k}. For ten: k=10."
        raise ValueError(msg)
    if top_k is not None and top_k < 0:
        msg = f"top_k must be a number of texts or None for all; got {top_k}. As published: top_k=20."
        raise ValueError(msg)
    if find == "cells" and top_k is not None:
        msg = f'top_k={top_k} is for find="texts"; cells are found by cosine alone. For the number of hits: k={top_k}.'
        raise ValueError(msg)
    if find == "texts" and use_rep is not None:
        msg = f"use_rep={use_rep!r} serves to find cells; texts are chosen by the counts. Leave it at None."
        raise ValueError(msg)


def _stored(adata: AnnData, use_rep: str) -> NDArray[np.float32]:
    if use_rep not in adata.obsm:
        present = ", ".join(map(repr, adata.obsm)) or "none"
        msg = f"adata.obsm has no {use_rep!r}; its keys: {present}. Compute it: sf.tl.embed(adata, model=...)."
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


def _directions(labels: Sequence[Label], model: ReadsTexts, device: str, precision: Precision) -> NDArray[np.float32]:
    """Direction of the mean of a label's texts, (n_labels, Z)."""
    embedded = model.get_text_embedding(
        [text for label in labels for text in label.texts], device=device, precision=precision
    )
    firsts = np.cumsum([0, *(len(label.texts) for label in labels)])[:-1]
    sums = np.add.reduceat(embedded, firsts, axis=0)
    return sums / np.linalg.norm(sums, axis=1, keepdims=True)


def _best_cells(
    adata: AnnData,
    labels: Sequence[Label],
    latent: NDArray[np.float32],
    directions: NDArray[np.float32],
    there: NDArray[np.int64],
    k: int,
) -> pd.DataFrame:
    from scfoundry.tasks.retrieval import nearest_cells

    rows, cosines = nearest_cells(latent, directions, min(k, len(there)))
    queries = np.repeat(np.arange(len(labels)), rows.shape[1])
    return _hits(adata, labels, queries, there[rows.ravel()], cosines)


def _best_texts(
    adata: AnnData, labels: Sequence[Label], probabilities: NDArray[np.float32], there: NDArray[np.int64], k: int
) -> pd.DataFrame:
    best = np.argsort(-probabilities[there], axis=1, kind="stable")[:, :k]
    rows = np.repeat(there, best.shape[1])
    return _hits(adata, labels, best.ravel(), rows, np.take_along_axis(probabilities[there], best, 1))


def _with_origin(hits: pd.DataFrame, params: Mapping[str, Any], model: FoundationModel) -> pd.DataFrame:
    used = {name: value for name, value in params.items() if value is not None}
    hits.attrs = {Keys.PARAMS: used, Keys.PROVENANCE: model.provenance}
    return hits


def _hits(
    adata: AnnData,
    labels: Sequence[Label],
    queries: NDArray[np.int64],
    rows: NDArray[np.int64],
    scores: NDArray[np.float32],
) -> pd.DataFrame:
    names = np.array([label.name for label in labels], dtype=object)
    return pd.DataFrame(
        {
            "query": names[queries],
            "rank": np.tile(np.arange(1, scores.shape[1] + 1), scores.shape[0]),
            "obs_name": adata.obs_names.to_numpy()[rows],
            "score": scores.ravel().astype(np.float32),
        }
    )
