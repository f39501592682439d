"""Cell types from texts, without training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from scfoundry._arguments import checks_arguments, quoted, require_column
from scfoundry._keys import Keys, Units
from scfoundry._settings import logger
from scfoundry.data.modality import to_write
from scfoundry.tl._label_slots import column, label_slots, refuse_shared_columns, warn_of_collapse
from scfoundry.tl._labels import as_table, labels_of, markers_of, with_markers, with_prompts
from scfoundry.tl._opening import announce, open_model, record, write_results

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from anndata import AnnData
    from mudata import MuData

    from scfoundry._device import Precision
    from scfoundry.data.labels import Label
    from scfoundry.model import FoundationModel
    from scfoundry.tl._labels import Markers, Texts

__all__ = ["zero_shot_annotate"]

CALLER = "sf.tl.zero_shot_annotate"


@checks_arguments
def zero_shot_annotate(
    adata: AnnData | MuData,
    texts: Texts,
    *,
    model: str | Path | FoundationModel = "cellnamer",
    adapt: bool | None = None,
    markers: Markers | None = None,
    groupby: str | None = None,
    unknown: Literal["auto"] | float | None = "auto",
    layer: str | None = None,
    modality: str = Keys.RNA,
    key_added: str = Keys.ZERO_SHOT,
    device: str = "auto",
    precision: Precision = "auto",
    batch_size: int | None = None,
    distribute: bool = False,
    copy: bool = False,
) -> AnnData | MuData | None:
    """Name the type of every cell, from texts alone.

    Labels are found in the Cell Ontology (``"CD14+ Mono"``, ``"NK"``, ``"CL:0000236"``; see `sf.tl.describe`) and read
    as ``cell type: {name}. {definition}``. How a cell is scored against a text is the model's own; see the guide *How
    cells get their names*. The order of labels, cells and genes and the size of batches do not change the result.

    Parameters
    ----------
    adata
        Cells x genes with raw counts, or else log1p-normalised values; in memory, backed, dask, or in a `MuData`.
    texts
        Labels to choose from: cell types or free texts, ``{label: text}``, ``{label: [text, text]}``, what
        `sf.tl.describe` returns, ``uns["zero_shot"]["texts"]`` of an earlier call (with its markers), or a column of
        ``obs``, of which every value counts once. Every cell gets one of them: offer all types that may occur. A text
        that names a term (``"cell type: monocyte. ..."``) counts before its label.
    model
        A model's name (its default weights), a name of `sf.model.list_pretrained`, a folder, or a loaded model.
    adapt
        Whether to smooth labels over cells that are alike: better for whole data sets, pointless for a few cells.
        `None` does as the weights were calibrated: default weights adapt, official ones read every cell by itself. Even
        with `False`, default weights read a gene in part relative to its mean and spread in the data set at hand.
    markers
        Genes that you know of a label, ``{"tuft cell": ["POU2F3", "TRPM5"]}``, for weights that can use them, instead
        of those that the weights know for it. Known types that show them, and that no other label covers, count as this
        label, not as unknown, whether the label is a term of the ontology or not.
    groupby
        Column of ``obs`` whose groups decide together by the mean probabilities of their cells; cells without a group
        decide alone. ``"leiden"``, where there is no such column, over-clusters the model's embedding.
    unknown
        Cells that fit their best label less are ``"unknown"``: a number between 0 and 1 is compared with
        ``obs["zero_shot_fit"]``, not with the score. ``"auto"`` takes the threshold stored with the weights, found for
        cells that are brought to agree: with ``adapt=False`` more known cells fall below it. `None` names every cell
        that expresses any gene of the model.
    layer, modality, key_added
        Layer with the values (``X`` if `None`), modality of a `MuData`, and name for the results.
    device, precision, batch_size
        Where to compute (``"auto"``, ``"cpu"``, ``"cuda:1"``, ``"mps"``), how precisely (``"float32"``, ``"bfloat16"``
        for matrix products; ``"auto"``: bfloat16 on CUDA; ``"fastest"``: what a short measurement finds faster here),
        and how many cells at a time (if `None`, what suits the device).
    distribute
        Let the workers of the active `dask.distributed` client read and name the cells, each with one core or
        GPU. The result is the same.
    copy
        Return a changed copy, in memory, instead of changing ``adata``.

    Returns
    -------
    `None`, or the copy if ``copy=True``. With ``key_added`` for ``zero_shot``, sets:

    ``adata.obs["zero_shot"]``
        Label of every cell, categorical; ``"unknown"`` where none fits or no gene of the model is expressed.
    ``adata.obs["zero_shot_score"]``
        Probability of the best label, *given that one of the labels is right*, float32; 0 for cells without any gene of
        the model. Of groups, their mean.
    ``adata.obs["zero_shot_fit"]``
        How well any label fits, between 0 and 1, float32; 0 for cells without any gene of the model. Default weights:
        the probability that the cell is none of the types they know beyond the labels, times that of its best label;
        where cells are brought to agree, in part the geometric mean over those that lie with it. Official weights: the
        score. Of groups, their mean.
    ``adata.obs["zero_shot_ontology_id"]``
        Cell Ontology term of the label, categorical, missing where there is none; only if any label has one.
    ``adata.obsm["zero_shot_scores"]``
        Probability of every label before groups decide, float32, (n_obs, n_labels), labels sorted by name. Files
        refuse columns with a slash: of ``"T/NK"`` the column is ``"T|NK"``.
    ``adata.uns["zero_shot"]``
        ``"params"``: the arguments as they took effect, with ``adapt`` and ``threshold`` of the weights where they were
        not given, and the model's own settings, such as LangCell's ``alpha``, ``mixture`` and ``top_k`` (of markers of
        ``"T/NK"`` the key is ``"T|NK"``); ``"texts"``: what was read for every label, one text per line;
        ``"provenance"``: weights with their checksum, licence, citation, versions, and how each gene was matched.

    Raises
    ------
    ValueError
        If there are no texts, or two labels are the same, by name or by term; the values are scaled, negative, NaN or
        neither counts nor log1p-normalised; too few genes are known; an argument is out of range or unknown to the
        weights, a key does not exist or the model reads no texts; or ``adata`` is a view of data on disk. Nothing has
        been computed then, and nothing written.
    FileNotFoundError
        If there are no such weights.

    References
    ----------
    Zhao S. et al. LangCell: Language-Cell Pre-training for Cell Identity Understanding. ICML 2024.

    Examples
    --------
    >>> import scanpy as sc, scfoundry as sf
    >>> adata = sc.datasets.pbmc68k_reduced().raw.to_adata()
    >>> sf.tl.zero_shot_annotate(adata, ["B cell", "T cell", "NK", "monocyte", "dendritic cell"])
    >>> adata.obs["zero_shot"].value_counts()
    """
    from scfoundry._device import Compute
    from scfoundry._workers import Workers
    from scfoundry.data.matrix.cells import Cells
    from scfoundry.model._capabilities import ReadsTexts
    from scfoundry.tasks.annotation.votes import ALONE, group_means, groups_of
    from scfoundry.tasks.annotation.zero_shot import clusters, name_cells

    labels = tuple(sorted(labels_of(texts, caller=CALLER), key=lambda label: label.name))
    names = [label.name for label in labels]
    if unknown is not None and unknown != "auto" and not 0 <= unknown <= 1:
        msg = (
            f'unknown must be "auto", None, or a number between 0 and 1 that is compared with obs["<key_added>_fit"]; '
            f'got {unknown!r}. The threshold of the weights: unknown="auto".'
        )
        raise ValueError(msg)
    refuse_shared_columns(names, caller=CALLER)
    adata, target = to_write(adata, modality, copy=copy, caller=CALLER)
    by_column = _has_column(target, groupby)
    compute = Compute.resolve(device, precision, batch_size)
    workers = Workers.active(caller=CALLER) if distribute else None
    reading = open_model(model, ReadsTexts, caller=CALLER)
    cells = Cells.of(target, reading.genes, layer=layer, caller=CALLER, workers=workers)
    markers = markers_of(texts, markers)
    labels = with_markers(labels, markers, genes=reading.genes, measured=cells.measured, caller=CALLER)
    labels = with_prompts(labels, reading)
    unsupported = reading.check_labels(labels)
    threshold = reading.unknown_threshold if unknown == "auto" else unknown

    announce(reading, compute, cells, f"{len(labels)} labels")
    _warn(labels, unsupported, threshold=threshold, wanted=unknown)
    scores = name_cells(reading, cells, labels, adapt=adapt, compute=compute)
    own = np.where(cells.empty[:, None], np.float32(0), scores.probabilities)
    decided, fit = own, own.max(1) if scores.fit is None else np.where(cells.empty, np.float32(0), scores.fit)
    if groupby is not None:
        groups = groups_of(target, groupby) if by_column else clusters(reading, cells, compute)
        groups[cells.empty] = ALONE
        decided, fit = group_means(own, groups), group_means(fit, groups)
    named = ~cells.empty if threshold is None else ~cells.empty & (fit >= threshold)

    params = {"groupby": groupby, "unknown": unknown, "threshold": threshold, "layer": layer}
    params |= {"modality": None if target is adata else modality, "batch_size": batch_size, "precision": precision}
    params["markers"] = {column(label): list(map(str, genes)) for label, genes in markers.items()} or None
    origin = record(reading, cells, dict(scores.params) | params) | {Keys.TEXTS: as_table(labels)}
    warn_of_collapse(decided, named, names, caller=CALLER)
    slots = label_slots(target, key_added, names, scores=own, decided=decided, named=named, caller=CALLER)
    slots[f"obs/{Keys.fit(key_added)}"] = fit.astype(np.float32)
    # An earlier call, with other labels, may have left terms.
    slots[f"obs/{Keys.ontology_id(key_added)}"] = _terms(slots[f"obs/{key_added}"], labels)
    write_results(target, slots | {f"uns/{key_added}": origin}, units=Units.PROBABILITY, caller=CALLER)
    return adata if copy else None


def _has_column(adata: AnnData, groupby: str | None) -> bool:
    """Whether groups are in ``obs``, not to be computed."""
    if groupby is None or (groupby == Keys.LEIDEN and groupby not in adata.obs):
        return False
    clustered = f'groupby, or groupby="{Keys.LEIDEN}" to cluster the embedding of the model'
    require_column(adata.obs, groupby, fix=clustered)
    return True


def _warn(
    labels: Sequence[Label], unsupported: Sequence[str], *, threshold: float | None, wanted: float | str | None
) -> None:
    if unsupported:
        logger.warning(
            "%s: the weights know neither cells nor markers of %s; expect these labels to be wrong. Give genes: "
            'markers={"%s": [...]}.',
            CALLER,
            quoted(unsupported),
            unsupported[0],
        )
    if len(labels) == 1:
        logger.warning("%s: of one label the probability is always 1; to rank cells use sf.tl.retrieve.", CALLER)
    if threshold is None and wanted is not None:
        logger.warning(
            "%s: these weights carry no threshold for unknown cells; only cells without any gene of the model are "
            "unknown. For a least fit of your own: unknown=0.5; if every cell is to get a label: unknown=None.",
            CALLER,
        )


def _terms(named: pd.Categorical, labels: Sequence[Label]) -> pd.Categorical | None:
    """Ontology term of the label of every cell; `None` where no label has one."""
    terms = {label.name: label.term for label in labels if label.term is not None}
    return pd.Categorical(pd.Series(named, dtype=object).map(terms)) if terms else None
