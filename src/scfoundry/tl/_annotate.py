"""Cell types learned from a labelled reference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from scfoundry._arguments import checks_arguments, quoted, require_column
from scfoundry._compat import obs_column
from scfoundry._keys import Keys
from scfoundry._settings import logger
from scfoundry.data.labels import NO_LABEL
from scfoundry.data.modality import modality_of, to_write
from scfoundry.tl._label_slots import refuse_shared_columns, warn_of_collapse
from scfoundry.tl._labels import classes_of, with_prompts
from scfoundry.tl._opening import announce, check_return
from scfoundry.tl._parents import Parents, parents_of, write_both_levels
from scfoundry.tl._query_and_reference import open_learned, record_learned, shared_genes

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from anndata import AnnData
    from mudata import MuData
    from numpy.typing import NDArray

    from scfoundry._device import Compute, Precision
    from scfoundry.data.matrix.cells import Cells
    from scfoundry.model import FoundationModel
    from scfoundry.nn.label_loss import HardMining, LabelLoss, LossName
    from scfoundry.nn.losses import ClassLoss
    from scfoundry.tasks.annotation.annotator import Annotator, Train

__all__ = ["annotate"]

CALLER = "sf.tl.annotate"
# From so many labels on, one for every cell are names of cells; a few are shots.
NAMES_OF_CELLS = 50


@checks_arguments
def annotate(
    adata: AnnData | MuData,
    reference: AnnData | MuData | None = None,
    *,
    labels_key: str | None = None,
    model: str | Path | FoundationModel | Annotator = "cellnamer",
    n_shots: int | None = None,
    train: Train = "head",
    max_epochs: int | None = None,
    loss: LossName | ClassLoss | None = None,
    hard_mining: HardMining = False,
    parents: Parents | None = None,
    transductive: bool = True,
    layer: str | None = None,
    reference_layer: str | None = None,
    batch_key: str | None = None,
    reference_batch_key: str | None = None,
    modality: str = Keys.RNA,
    rng: int | np.random.Generator | None = 0,
    key_added: str = Keys.ANNOTATION,
    device: str = "auto",
    precision: Precision = "auto",
    batch_size: int | None = None,
    distribute: bool = False,
    copy: bool = False,
    return_fitted: bool = False,
) -> AnnData | MuData | Annotator | None:
    """Name the type of every cell, as learned from labelled cells of a reference.

    Any model that embeds cells will do. One that reads texts (``"cellnamer"``) begins with what the texts of the labels
    say, so that a few labelled cells are enough; with any other (``"cellplm"``) single genes count as well as the
    embedding, which helps over technologies. Genes of both data sets are found by name; they need not measure the same
    ones. A loaded model and the reference stay as they are.

    Parameters
    ----------
    adata
        Cells x genes with raw counts, or else log1p-normalised values; in memory, backed, dask, or in a `MuData`.
    reference
        Labelled cells, in the same forms; not with what was fitted.
    labels_key
        Column of the reference's ``obs`` with the labels. Cells without one are left out: missing, empty, or a word for
        it (``"unknown"``, ``"unassigned"``, ``"nan"``, ``"none"``, ``"na"``, ``"n/a"``, in any case).
    model
        A model's name (its default weights), a name of `sf.model.list_pretrained`, a folder, or a loaded model. Or a
        `sf.tasks.Annotator`, or its folder, which learns no more.
    n_shots
        Learn from this many cells per label, drawn at random; from all if `None`.
    train
        A ``"head"`` on the weights as they are, or ``"all"`` of them in a copy: as published (Celler, LangCell), or
        until held-out cells of the reference are named no better. ``"lora"`` does the same with a fraction of the
        memory: attention learns by matrices of low rank (Hu et al. 2022), which are added to the weights in the end,
        and the rest stays. All weights need many cells and a GPU; on few, a head is better.
    max_epochs
        Passes over the cells for ``"all"`` and ``"lora"``; chosen by the model if `None`. A head needs none.
    loss
        What is minimised while labels are learned: ``"cross_entropy"``; ``"focal"``; or, for labels of few cells,
        ``"balanced_softmax"`` or ``"ginf"`` (Gaussian inflation: with noise on top), where the sizes of labels stand in
        the loss. Or one with settings of its own: ``scfoundry.nn.losses.GInf(sigma=0.2)``. If `None`, heads on
        the embedding and genes learn by ``"balanced_softmax"``; those that begin with texts, and all weights, by
        ``"cross_entropy"``.
    hard_mining
        Add the loss over the labels that a cell is most confused with: a third of all and at most 20, or as many as an
        ``int`` says (20 in the paper). With ``"cells"`` those confidently taken for another label count more instead.
    parents
        Name a second level of labels, too: a mapping from every label to its parent, or ``"cell_ontology"`` for the
        types that labels share by the ontology of the package. The probability of a parent is the sum of its labels'.
    transductive
        Whether the cells of ``adata``, without labels, play a part while the labels are learned: in the contexts of the
        reference, for models whose unit is a group of cells, and by showing along which axes cells differ.
    layer, reference_layer
        Layers with the values, ``X`` if `None`.
    batch_key, reference_batch_key
        Columns of ``obs`` that name the sample, section or field of view of a cell, for models whose unit is a group of
        cells: those of a sample are seen together, and samples of one name in both are one. One group of all cells if
        `None`.
    modality, key_added
        Modality of a `MuData`, and name for the results.
    rng
        Seed or generator.
    device, precision, batch_size
        Where to compute (``"auto"``, ``"cpu"``, ``"cuda:1"``, ``"mps"``), how precisely (``"float32"``, ``"bfloat16"``
        for matrix products; ``"auto"``: bfloat16 on CUDA; ``"fastest"``: what a short measurement finds faster here),
        and how many cells at a time (if `None`, what suits the device).
    distribute
        Let the workers of the active `dask.distributed` client read and label ``adata``, each with one core or
        GPU. The result is the same. What is learned is learned in this process.
    copy, return_fitted
        Return a changed copy, in memory, instead of changing ``adata``; or what was learned, to save or use again.

    Returns
    -------
    `None`, the copy if ``copy=True``, or the `sf.tasks.Annotator` if ``return_fitted=True``. With ``key_added`` for
    ``annotation``, sets:

    ``adata.obs["annotation"]``
        Label of every cell, categorical, labels sorted by name: the one of the highest probability, with ``parents``
        among those under the cell's parent, so that both levels agree. ``"unknown"`` where no gene of the model is
        expressed, or none that the reference measured, too, if no others are read (``"cellplm"``).
    ``adata.obs["annotation_score"]``
        Probability of that label, float32; 0 for cells that are unknown.
    ``adata.obsm["annotation_scores"]``
        Probability of every label, float32, (n_obs, n_labels). Of a label ``"T/NK"`` the column is ``"T|NK"``. By
        ``"balanced_softmax"`` and ``"ginf"`` it is for labels that are all as frequent, which is what finds rare ones.
        Where labels are as frequent as in the reference, multiply by ``uns["annotation"]["reference"]["n_cells"]`` and
        divide by the sum over labels, as ``scfoundry.nn.losses.prior_correction`` does.
    ``adata.obs["annotation_parent"]``, and ``annotation_parent_score``, ``annotation_parent_scores``
        With ``parents``, the same of these: the parent of the highest probability.
    ``adata.uns["annotation"]``
        ``"params"``: the arguments; ``"reference"``: cells learned from, by label, and its parent; ``"provenance"``:
        weights with their checksum, licence, citation, versions, how each gene was matched, and the number of
        ``"shared_genes"``.

    Raises
    ------
    ValueError
        If the reference has no such column, no labelled cell or one label only; a key does not exist; values of either
        data set are scaled, negative, NaN or neither counts nor log1p-normalised; too few genes are known, or the two
        share none of them or are of two species; a label has no parent, something else has one, or parents go round in
        a circle; an argument is out of range, unknown to the weights or of no effect;
        or ``adata`` is a view of data on disk. Nothing has been computed then, and nothing written.
    FileNotFoundError
        If there are no such weights.

    Examples
    --------
    >>> import scanpy as sc, scfoundry as sf
    >>> cells = sc.datasets.pbmc68k_reduced().raw.to_adata()
    >>> adata, reference = cells[::2].copy(), cells[1::2].copy()
    >>> sf.tl.annotate(adata, reference, labels_key="bulk_labels", n_shots=9)
    >>> adata.obs["annotation"].value_counts()

    The same for rare types, on two levels:

    >>> kinds = {name: name.split()[0] for name in reference.obs["bulk_labels"].unique()}
    >>> sf.tl.annotate(adata, reference, labels_key="bulk_labels", loss="ginf", hard_mining=True, parents=kinds)
    >>> adata.obs[["annotation_parent", "annotation"]].value_counts()
    """
    from scfoundry._device import Compute
    from scfoundry._workers import Workers
    from scfoundry.data.matrix.cells import Cells
    from scfoundry.nn.label_loss import LabelLoss
    from scfoundry.tasks.annotation.annotator import Annotator, recipe_of

    check_return(copy=copy, return_fitted=return_fitted, caller=CALLER)
    minimised = LabelLoss.of(loss or "cross_entropy", hard_mining)
    learning: dict[str, Any] = {"labels_key": labels_key, "n_shots": n_shots, "max_epochs": max_epochs}
    # What is as usual is no argument of learning that could stand beside what was fitted.
    learning |= {"train": None if train == "head" else train, "loss": loss, "hard_mining": hard_mining or None}
    learning["parents"] = parents
    learning |= {"reference_layer": reference_layer, "reference_batch_key": reference_batch_key}
    adata, target = to_write(adata, modality, copy=copy, caller=CALLER)
    compute = Compute.resolve(device, precision, batch_size)
    workers = Workers.active(caller=CALLER) if distribute else None
    given = {"reference": reference} | learning
    annotator, weights = open_learned(model, Annotator, given, "labels_key", caller=CALLER)
    labelled = None if reference is None else _Labelled.of(modality_of(reference, modality), labels_key)
    cells = Cells.of(target, weights.genes, layer=layer, batch_key=batch_key, caller=CALLER, workers=workers)

    params = learning | {"transductive": transductive}
    if labelled is None:
        announce(weights, compute, cells, what="as fitted")
    else:
        params |= {"train": train}
        head = recipe_of(weights, train=train, max_epochs=max_epochs)
        if loss is None and head is not None and train == "head":
            minimised = LabelLoss.of(head.usual_loss, hard_mining)
        annotator = _learned(weights, cells, labelled, params, minimised, np.random.default_rng(rng), compute)
        params |= minimised.params | {"parents": parents if parents is None or isinstance(parents, str) else "given"}
    scores = annotator.predict(cells, compute)
    known: NDArray[np.bool_] = np.any(scores, axis=1)
    names = [label.name for label in annotator.labels]
    warn_of_collapse(scores, known, names, caller=CALLER)

    params |= {"layer": layer, "batch_key": batch_key, "rng": rng, "precision": precision}
    origin = record_learned(weights, annotator, cells, names, params)
    write_both_levels(target, key_added, annotator, scores, known, origin, caller=CALLER)
    return annotator if return_fitted else adata if copy else None


class _Labelled(NamedTuple):
    """A reference, with the label of every cell as text, missing where it has none."""

    adata: AnnData
    labels: pd.Series

    @classmethod
    def of(cls, adata: AnnData, key: str | None) -> _Labelled:
        """Read the labels; at least two are needed."""
        require_column(adata.obs, key, name="reference.obs", fix="labels_key")
        column = obs_column(adata, key)
        labels = column.astype(object).where(column.notna(), None).map(str, na_action="ignore")
        says_nothing = labels.str.strip().str.lower().isin(NO_LABEL)
        labels = labels.mask(says_nothing, None)
        classes = labels.dropna().unique()
        if not len(classes):
            msg = (
                f"None of the {adata.n_obs:,} cells of the reference has a label in obs[{key!r}]. Fill the column, or "
                "pass another: labels_key=..."
            )
            raise ValueError(msg)
        if len(classes) == 1:
            msg = (
                f"All labelled cells of the reference are {classes[0]!r} in obs[{key!r}]; to tell types apart it needs "
                "at least two. Without a reference: sf.tl.zero_shot_annotate(adata, texts)."
            )
            raise ValueError(msg)
        if len(classes) == labels.notna().sum() >= NAMES_OF_CELLS:
            msg = (
                f"Every labelled cell of the reference has a label of its own in obs[{key!r}], such as {classes[0]!r}: "
                "nothing can be learned from one cell of each. Pass a column that groups cells: labels_key=..."
            )
            raise ValueError(msg)
        if n_missing := int(labels.isna().sum()):
            n_silent = int(says_nothing.sum())
            also = f" (of them {n_silent} with an empty one or a word for none)" if n_silent else ""
            logger.warning("%s: %d cells of the reference have no label and are left out%s.", CALLER, n_missing, also)
        return cls(adata, labels)


def _learned(
    model: Any,
    cells: Cells,
    reference: _Labelled,
    how: Mapping[str, Any],
    loss: LabelLoss,
    rng: np.random.Generator,
    compute: Compute,
) -> Annotator:
    """Learn the labels of a reference, as the arguments of learning say."""
    from scfoundry.data.genes.overlap import warn_of_few_shared
    from scfoundry.data.matrix.cells import Cells
    from scfoundry.tasks.annotation.annotator import Annotator, recipe_of

    to_learn = Cells.of(
        reference.adata,
        model.genes,
        layer=how["reference_layer"],
        batch_key=how["reference_batch_key"],
        caller=f"{CALLER} (reference)",
        called=("reference", "reference_batch_key"),
    )
    training: dict[str, Any] = {"train": how["train"], "max_epochs": how["max_epochs"]}
    recipe = recipe_of(model, **training)
    shared = shared_genes(cells, to_learn, model)
    seen, what = to_learn, "a gene of the model"
    if recipe is not None and recipe.shared_genes_only:
        seen, what = to_learn.only(shared), "a gene of the model that adata measured, too"
        smaller = min(len(cells.measured), len(to_learn.measured))
        warn_of_few_shared(len(shared), smaller, names=("adata", "reference"), caller=CALLER)
    rows = _drawn(to_learn, reference.labels, ~seen.empty, how["n_shots"], rng)
    named = reference.labels.iloc[rows]
    found = sorted(named.unique())
    if len(found) < 2:
        msg = (
            f"Of the labels of the reference only {quoted(found)} has cells that express {what}; two are needed. Pass "
            "the layer with counts: reference_layer=..."
        )
        raise ValueError(msg)
    refuse_shared_columns(found, caller=CALLER)
    classes = classes_of(found)
    parents = parents_of(how["parents"], classes, set(reference.labels.dropna()), CALLER)
    labels = with_prompts(classes, model)
    codes = pd.Categorical(named, [label.name for label in labels]).codes.astype(np.int64)
    announce(model, compute, cells, what=f"{len(labels)} labels learned from {len(rows):,} cells", shared=shared)
    # Learning passes over the cells many times: the few are read once.
    shots = to_learn.take(rows) if how["n_shots"] is None else to_learn.take(rows).in_memory()
    training |= {"query": cells if how["transductive"] else None, "genes": shared, "seed": int(rng.integers(2**31))}
    return Annotator.fit(model, shots, labels, codes, loss=loss, parents=parents, **training, compute=compute)


def _drawn(
    cells: Cells,
    labels: pd.Series,
    usable: NDArray[np.bool_],
    n_shots: int | None,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Rows to learn from: drawn in the order of names, so that the order of cells plays no part, and ascending."""
    usable = usable & labels.notna().to_numpy()
    if n_shots is None:
        return np.flatnonzero(usable)
    rows = cells.by_name[usable[cells.by_name]]
    members = pd.Series(rows).groupby(labels.to_numpy()[rows])
    if few := {label: len(own) for label, own in members if len(own) < n_shots}:
        listed = ", ".join(f"{label!r} ({n})" for label, n in few.items())
        logger.warning("%s: fewer than %d cells to learn from: %s; all are taken.", CALLER, n_shots, listed)
    drawn = [rng.choice(own, min(n_shots, len(own)), replace=False) for _, own in members]
    return np.sort(np.concatenate([rows[:0], *drawn]))
