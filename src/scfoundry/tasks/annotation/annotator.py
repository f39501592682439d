"""How a CellPLM learns cell types from a labelled reference, with the cells to annotate in its context or not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np
import torch
from scipy import sparse

from scfoundry._device import autocast, resolve_device
from scfoundry._settings import logger
from scfoundry.data.matrix.contexts import Context, contexts
from scfoundry.data.matrix.joint_reader import JointReader
from scfoundry.data.matrix.reader import CountsReader
from scfoundry.model.cellplm._streaming import chunk_size
from scfoundry.nn.counts import SparseCounts
from scfoundry.stats.softmax_regression import fit_softmax
from scfoundry.tasks.annotation.fine_tune import MAX_EPOCHS, fine_tune_encoder, hold_out

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from numpy.typing import NDArray

    from scfoundry._device import Precision
    from scfoundry.data.labels import Label
    from scfoundry.model._contracts import Query, Train
    from scfoundry.model.cellplm._model import CellPLM

__all__ = ["LearnsCellTypes"]

# Chosen on splits by donor, stimulation, protocol and tissue section, none of which is a split of the benchmark.
LATENT_RIDGE, GENE_RIDGE = 10.0, 0.001
# Genes that hardly vary are not blown up.
MIN_LATENT_SCALE, MIN_GENE_VARIANCE = 1e-3, 1.0
# The shares of labels differ from sample to sample: half of what a head has learned of them is taken back.
PRIOR_TAKEN_BACK = 0.5
# What rounding leaves of the variance of a gene that does not vary.
ROUNDING = 1e-9
# Cells that an opinion is fitted to at most.
MAX_CELLS = 50_000
CELLS_PER_BLOCK = 4096


class LearnsCellTypes:
    """The part of `CellPLM` that `sf.tl.annotate` uses."""

    learns_from_shared_genes = True

    def fit_labels(
        self,
        adata: AnnData,
        labels: Sequence[Label],
        codes: NDArray[np.int64],
        *,
        query: Query | None = None,
        genes: NDArray[np.int64] | None = None,
        train: Train | None = None,
        layer: str | None = None,
        batch_key: str | None = None,
        max_epochs: int | None = None,
        seed: int = 0,
        device: str = "auto",
        precision: Precision = "auto",
    ) -> Self:
        """Learn the labels of a reference, in a copy of this model.

        The head has two opinions, by the embedding and by single genes, each a logistic regression (`AnnotationHead`).
        The encoder stays as it is, or is fine-tuned with the first of them (``train="all"``) until the loss of held-out
        cells of the reference no longer falls; the best weights return.

        Parameters
        ----------
        adata
            Labelled cells; it is only read.
        labels
            P labels; their names are saved with the model.
        codes
            Number of the label of every cell, (n_obs,).
        query
            Cells without labels that stand in the context of the others while these learn, as published; none if
            `None`. Contexts of the same name are one. `predict_labels` embeds cells in contexts of their own.
        genes
            Vocabulary positions of the genes to learn from, those that both data sets measured; all if `None`.
        train
            ``"head"`` (default) or ``"all"``.
        layer
            Layer with the counts, ``X`` if `None`.
        batch_key
            Column of ``obs`` that names the context of a cell.
        max_epochs
            Passes over the contexts, 60 if `None`; for ``train="all"`` only.
        seed
            Of everything random in training.
        device, precision
            As in `get_latent_representation`.

        Returns
        -------
        The copy, whose `predict_labels` annotates.

        Raises
        ------
        ValueError
            If epochs are asked of a head, which is fitted until it is best; or if cells have no label, or labels no
            cell.
        """
        if max_epochs is not None and train != "all":
            msg = (
                f"The head is fitted until it is best, without epochs; got max_epochs={max_epochs}. Leave it out, or "
                'fine-tune the encoder, too: train="all".'
            )
            raise ValueError(msg)
        if set(codes.tolist()) != set(range(len(labels))):
            msg = (
                f"codes must number the {len(labels)} labels, with at least one cell each; got the numbers "
                f"{sorted(set(codes.tolist()))}. Leave out cells without a label and labels without cells: "
                "adata = adata[adata.obs[key].notna()].copy(); adata.obs[key].cat.remove_unused_categories()."
            )
            raise ValueError(msg)
        torch_device = resolve_device(device)
        caller = "CellPLM.fit_labels"
        reader = CountsReader(adata, cast("CellPLM", self).genes, layer=layer, caller=caller)
        groups = contexts(adata, batch_key)
        shown = np.asarray(reader.alignment.measured if genes is None else genes, dtype=np.int64)
        names = adata.obs_names.to_numpy().astype(str)
        by_name = np.argsort(names, kind="stable")
        cells = JointReader([reader], shown)
        if query is not None:
            cells = JointReader([reader, query.reader], shown)
            alone = {group.name for group in groups}
            groups = joined(groups, beside := contexts(query.adata, query.batch_key), reader.n_obs)
            if alone.isdisjoint(group.name for group in beside):
                _warn_of_no_common_context(sorted(alone), [group.name for group in beside])
            names = np.concatenate([names, query.adata.obs_names.to_numpy().astype(str)])

        # A head for other labels does not fit these.
        model = cast("CellPLM", self).copy(classes=()).copy(classes=tuple(label.name for label in labels))
        head = model.module.classifier
        head.measured.fill_(False)
        head.measured[torch.from_numpy(shown)] = True
        rng = np.random.default_rng(seed)
        if train == "all":
            held_out = hold_out(codes, by_name, rng)
            learned = by_name[~held_out[by_name]]
            _fit_latent_head(model, cells, groups, codes, learned, rng, device=torch_device, precision=precision)
            fine_tune_encoder(
                model,
                cells,
                [Context(group.name, group.rows[np.argsort(names[group.rows], kind="stable")]) for group in groups],
                codes,
                held_out,
                max_epochs=MAX_EPOCHS if max_epochs is None else max_epochs,
                seed=seed,
                device=torch_device,
                precision=precision,
            )
        else:
            _fit_latent_head(model, cells, groups, codes, by_name, rng, device=torch_device, precision=precision)
        if head.reads_genes:
            _fit_gene_head(model, cells, codes, by_name, rng)
        head.take_back(PRIOR_TAKEN_BACK * np.log(np.bincount(codes, minlength=len(labels)) / len(codes)))
        return cast("Self", model)

    def predict_labels(
        self,
        adata: AnnData,
        *,
        layer: str | None = None,
        batch_key: str | None = None,
        batch_size: int | None = None,
        device: str = "auto",
        precision: Precision = "auto",
    ) -> NDArray[np.float32]:
        """Probability of every label that `fit_labels` learned, (n_obs, P), in the order of ``config.classes``.

        Raises
        ------
        ValueError
            If no labels were learned.
        """
        model = cast("CellPLM", self)
        if not model.config.classes:
            msg = "This model has learned no labels yet: fitted = model.fit_labels(reference, labels, codes)."
            raise ValueError(msg)
        head, torch_device = model.module.classifier, resolve_device(device)
        reader = CountsReader(adata, model.genes, layer=layer, caller="CellPLM.predict_labels")
        cells = JointReader([reader], np.flatnonzero(head.measured.cpu().numpy()))
        latent = _embedded(
            model, cells, contexts(adata, batch_key), batch_size=batch_size, device=torch_device, precision=precision
        )
        size = chunk_size(batch_size, torch_device)
        absent = head.measured.clone()
        absent[torch.from_numpy(reader.alignment.measured).to(absent.device)] = False
        told = np.empty((adata.n_obs, len(model.config.classes)), dtype=np.float32)
        with torch.no_grad(), autocast(torch_device, precision):
            for start, block in zip(
                range(0, adata.n_obs, size), cells.blocks(np.arange(adata.n_obs), size), strict=True
            ):
                expression = SparseCounts.from_csr(block).to(torch_device).log_normalised("cp10k")
                own = torch.from_numpy(latent[start : start + size]).to(torch_device)
                told[start : start + size] = head(own, expression, absent).float().cpu().numpy()
        return told


def joined(labelled: Sequence[Context], query: Sequence[Context], n_labelled: int) -> list[Context]:
    """Contexts of two data sets that stand one after the other; those of the same name are one."""
    later = {context.name: context.rows + n_labelled for context in query}
    both = [
        Context(context.name, np.concatenate([context.rows, later.pop(context.name, context.rows[:0])]))
        for context in labelled
    ]
    return both + [Context(name, rows) for name, rows in later.items()]


def _embedded(
    model: CellPLM, cells: JointReader, groups: Sequence[Context], *, batch_size: int | None = None, **how: Any
) -> NDArray[np.float32]:
    """Embeddings, (n, Z)."""
    return model._embed(cast("CountsReader", cells), groups, {}, batch_size=batch_size, **how)


def _fit_latent_head(
    model: CellPLM,
    cells: JointReader,
    groups: Sequence[Context],
    codes: NDArray[np.int64],
    rows: NDArray[np.int64],
    rng: np.random.Generator,
    **how: Any,
) -> None:
    """Fit the opinion by the embedding to labelled cells."""
    head = model.module.classifier
    drawn = _drawn(codes, rows, rng)
    latent = _embedded(model, cells, groups, **how)[drawn].astype(np.float64)
    mean, scale = latent.mean(0), latent.std(0) + MIN_LATENT_SCALE
    weights, bias = fit_softmax((latent - mean) / scale, codes[drawn], len(model.config.classes), ridge=LATENT_RIDGE)
    head.latent_mean.copy_(torch.from_numpy(mean))
    head.latent_scale.copy_(torch.from_numpy(scale))
    with torch.no_grad():
        head.latent_layer.weight.copy_(torch.from_numpy(weights.T))
        head.latent_layer.bias.copy_(torch.from_numpy(bias + _frequency_lost(codes, rows, drawn)))


def _fit_gene_head(
    model: CellPLM, cells: JointReader, codes: NDArray[np.int64], rows: NDArray[np.int64], rng: np.random.Generator
) -> None:
    """Fit the opinion by single genes to labelled cells."""
    head = model.module.classifier
    drawn = _drawn(codes, rows, rng)
    # Cells are read as they lie, which is fast on disk, and learned by name: their order plays no part.
    as_they_lie = np.argsort(drawn)
    blocks = [_log_expression(block) for block in cells.blocks(drawn[as_they_lie], CELLS_PER_BLOCK)]
    expression = sparse.vstack(blocks, format="csr")[np.argsort(as_they_lie)]
    mean = np.asarray(expression.mean(0)).ravel()
    variance = np.asarray(expression.multiply(expression).mean(0)).ravel() - mean**2
    # Centring would only move the bias.
    scale = np.where(variance > ROUNDING, 1 / np.sqrt(variance.clip(0) + MIN_GENE_VARIANCE), 0)
    features = sparse.csr_matrix(expression @ sparse.diags(scale).tocsr())
    weights, bias = fit_softmax(features, codes[drawn], len(model.config.classes), ridge=GENE_RIDGE)
    head.gene_mean.copy_(torch.from_numpy(mean))
    with torch.no_grad():
        head.gene_weights.copy_(torch.from_numpy(weights * scale[:, None]))
        head.gene_bias.copy_(torch.from_numpy(bias + _frequency_lost(codes, rows, drawn)))


def _drawn(codes: NDArray[np.int64], rows: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Some of the rows if they are too many: all cells of rare labels, equally many of each frequent one."""
    if len(rows) <= MAX_CELLS:
        return rows
    of_label = [rows[codes[rows] == code] for code in np.unique(codes[rows])]
    left, drawn = MAX_CELLS, []
    for n_done, own in enumerate(sorted(of_label, key=len)):
        drawn.append(rng.permutation(own)[: max(left // (len(of_label) - n_done), 1)])
        left -= len(drawn[-1])
    return np.concatenate(drawn)


def _frequency_lost(codes: NDArray[np.int64], rows: NDArray[np.int64], drawn: NDArray[np.int64]) -> NDArray[np.float64]:
    """Logits (C,) by which a label is more frequent among all rows than among those drawn."""
    n = codes.max() + 1
    everything, sample = (np.bincount(codes[part], minlength=n) / len(part) for part in (rows, drawn))
    return np.log(everything / sample)


def _warn_of_no_common_context(reference: Sequence[str], query: Sequence[str]) -> None:
    logger.warning(
        "CellPLM.fit_labels: no context holds cells of both data sets (reference: %s; query: %s), so the query plays "
        "no part while labels are learned. For common contexts, name samples alike or leave out both batch keys.",
        *(", ".join(map(repr, names[:3])) + ", ..." * (len(names) > 3) for names in (reference, query)),
    )


def _log_expression(counts: sparse.csr_matrix) -> sparse.csr_matrix:
    """Log1p of counts per 10,000, (n, G)."""
    told = SparseCounts.from_csr(counts).log_normalised("cp10k")
    return sparse.csr_matrix((told.values.double().numpy(), told.genes, told.indptr), shape=counts.shape)
