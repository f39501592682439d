"""How a CellPLM learns cell types from a labelled reference, with the cells to annotate in its context or not."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np
import torch
from scipy import sparse
from torch.nn import functional as F

from scfoundry.data.contexts import Context, contexts
from scfoundry.data.reader import CountsReader
from scfoundry.model._device import autocast, resolve_device
from scfoundry.model.cellplm._fine_tuning import fine_tune
from scfoundry.model.cellplm._joint_reader import JointReader, joined
from scfoundry.model.cellplm._objectives import keep_cells, mask_rates
from scfoundry.model.cellplm._softmax_regression import fit_softmax
from scfoundry.model.cellplm._streaming import chunk_size
from scfoundry.nn.counts import SparseCounts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from scfoundry.data.labels import Label
    from scfoundry.model._contracts import Query, Train
    from scfoundry.model._device import Precision
    from scfoundry.model.cellplm._config import CellPLMConfig
    from scfoundry.model.cellplm._model import CellPLM

__all__ = ["LearnsCellTypes"]

# Chosen on splits of other data by donor, stimulation, protocol and tissue section.
LATENT_RIDGE, GENE_RIDGE = 10.0, 0.001
# Genes that hardly vary are not blown up.
MIN_LATENT_SCALE, MIN_GENE_VARIANCE = 1e-3, 1.0
# The shares of labels differ from sample to sample: half of what a head has learned of them is taken back.
PRIOR_TAKEN_BACK = 0.5
# What rounding leaves of the variance of a gene that does not vary.
ROUNDING = 1e-9
# Cells that the weights of single genes are fitted to at most.
MAX_CELLS = 50_000
CELLS_PER_BLOCK = 4096

# Fine-tuning of everything: the encoder keeps what it knows.
MAX_EPOCHS, PATIENCE, WARMUP_STEPS = 60, 15, 5
LR, PART_LRS, WEIGHT_DECAY = 1e-3, {"embedder": 1e-5, "layers": 1e-4, "latent": 1e-4}, 1e-4
VALIDATION_SIZE = 0.1


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
            Cells without labels that stand in the context of the others, as published; none if `None`. Contexts of the
            same name are one.
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
            groups = joined(groups, contexts(query.adata, query.batch_key), reader.n_obs)
            names = np.concatenate([names, query.adata.obs_names.to_numpy().astype(str)])

        # A head for other labels does not fit these.
        model = cast("CellPLM", self)._twin(classes=())._twin(classes=tuple(label.name for label in labels))
        head = model.module.classifier
        head.measured.fill_(False)
        head.measured[torch.from_numpy(shown)] = True
        rng = np.random.default_rng(seed)
        if train == "all":
            held_out = _held_out(codes, by_name, rng)
            learned = by_name[~held_out[by_name]]
            _fit_latent_head(model, cells, groups, codes, learned, device=torch_device, precision=precision)
            _fine_tune_all(
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
            _fit_latent_head(model, cells, groups, codes, by_name, device=torch_device, precision=precision)
        if head.reads_genes:
            drawn = by_name if len(by_name) <= MAX_CELLS else rng.permutation(by_name)[:MAX_CELLS]
            _fit_gene_head(model, cells, drawn, codes)
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
    **how: Any,
) -> None:
    """Fit the opinion by the embedding to labelled cells."""
    head = model.module.classifier
    latent = _embedded(model, cells, groups, **how)[rows].astype(np.float64)
    mean, scale = latent.mean(0), latent.std(0) + MIN_LATENT_SCALE
    weights, bias = fit_softmax((latent - mean) / scale, codes[rows], len(model.config.classes), ridge=LATENT_RIDGE)
    head.latent_mean.copy_(torch.from_numpy(mean))
    head.latent_scale.copy_(torch.from_numpy(scale))
    layer = cast("nn.Linear", head.latent.layers[0])
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weights.T))
        layer.bias.copy_(torch.from_numpy(bias))


def _fit_gene_head(model: CellPLM, cells: JointReader, rows: NDArray[np.int64], codes: NDArray[np.int64]) -> None:
    """Fit the opinion by single genes to labelled cells."""
    head = model.module.classifier
    # Cells are read as they lie, which is fast on disk, and learned by name: their order plays no part.
    as_they_lie = np.argsort(rows)
    blocks = [_log_expression(block) for block in cells.blocks(rows[as_they_lie], CELLS_PER_BLOCK)]
    expression = sparse.vstack(blocks, format="csr")[np.argsort(as_they_lie)]
    mean = np.asarray(expression.mean(0)).ravel()
    variance = np.asarray(expression.multiply(expression).mean(0)).ravel() - mean**2
    # Centring would only move the bias.
    scale = np.where(variance > ROUNDING, 1 / np.sqrt(variance.clip(0) + MIN_GENE_VARIANCE), 0)
    features = sparse.csr_matrix(expression @ sparse.diags(scale).tocsr())
    weights, bias = fit_softmax(features, codes[rows], len(model.config.classes), ridge=GENE_RIDGE)
    head.gene_mean.copy_(torch.from_numpy(mean))
    with torch.no_grad():
        head.gene_weights.copy_(torch.from_numpy(weights * scale[:, None]))
        head.gene_bias.copy_(torch.from_numpy(bias))


def _log_expression(counts: sparse.csr_matrix) -> sparse.csr_matrix:
    """Log1p of counts per 10,000, (n, G)."""
    told = SparseCounts.from_csr(counts).log_normalised("cp10k")
    return sparse.csr_matrix((told.values.double().numpy(), told.genes, told.indptr), shape=counts.shape)


def _held_out(codes: NDArray[np.int64], by_name: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.bool_]:
    """Mark the same share of every label, rounded down."""
    held_out = np.zeros(len(codes), dtype=bool)
    for code in np.unique(codes):
        own = rng.permutation(by_name[codes[by_name] == code])
        held_out[own[: int(VALIDATION_SIZE * len(own))]] = True
    return held_out


def _fine_tune_all(
    model: CellPLM,
    cells: JointReader,
    groups: Sequence[Context],
    codes: NDArray[np.int64],
    held_out: NDArray[np.bool_],
    *,
    max_epochs: int,
    seed: int,
    device: torch.device,
    precision: Precision,
) -> None:
    """Fine-tune the encoder together with the opinion by the embedding."""
    module, config = model.module, model.config
    head = module.classifier
    groups = [context for context in groups if np.any(context.rows < len(codes))]
    targets = np.full(cells.n_obs, -1)
    targets[: len(codes)] = codes
    judged = np.zeros(cells.n_obs, dtype=bool)
    judged[: len(codes)] = held_out
    # Every context counts for as many cells as are held out in it.
    share = len(groups) / max(int(held_out.sum()), 1)

    def loss(context: Context, step: int) -> dict[str, Tensor]:
        kept = keep_cells(len(context.rows), config) if module.training else torch.arange(len(context.rows))
        rows = context.rows[kept.numpy()]
        counts = SparseCounts.from_csr(cells.read(rows)).to(module.device)
        expression = counts.log_normalised(config.library_size)
        if module.training:
            expression = _input_dropout(expression, config)
        counting = np.flatnonzero((targets[rows] >= 0) & (judged[rows] != module.training))
        latent = module.latent.embedding(module.encode(expression))
        logits = head.by_latent(latent[torch.from_numpy(counting).to(module.device)])
        truth = torch.from_numpy(targets[rows[counting]]).to(module.device)
        total = F.cross_entropy(logits.float(), truth, reduction="sum")
        return {"loss": total / max(len(counting), 1) if module.training else total * share}

    fine_tune(
        model,
        groups,
        loss,
        parts=("embedder", "layers", "latent", "classifier.latent"),
        max_epochs=max_epochs,
        lr=LR,
        part_lrs=PART_LRS,
        weight_decay=WEIGHT_DECAY,
        warmup_steps=WARMUP_STEPS * len(groups),
        patience=PATIENCE if held_out.any() else None,
        seed=seed,
        device=device,
        precision=precision,
    )


def _input_dropout(expression: SparseCounts, config: CellPLMConfig) -> SparseCounts:
    """Hide some detected genes of most cells, as in pretraining; none if the configuration masks none."""
    if not config.mask_cells or not config.mask_genes:
        return expression
    chosen = torch.rand(expression.n_cells) < config.mask_cells
    rate = torch.where(chosen, mask_rates(expression.n_cells, config), 0.0).to(expression.values.device)
    hidden = torch.rand_like(expression.values) < rate[expression.rows]
    return replace(expression, values=expression.values.masked_fill(hidden, 0.0))
