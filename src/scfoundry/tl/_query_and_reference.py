"""Cells to annotate and cells to learn from, read in one gene order, and how to learn."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

import numpy as np

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

    from scfoundry.data.matrix.reader import CountsReader
    from scfoundry.model import FoundationModel

__all__ = ["check_training", "query_and_reference"]


def check_training(*, train: str | None, max_epochs: int | None, batch_size: int | None) -> None:
    """Refuse arguments of training that are out of range."""
    from scfoundry.model._contracts import Train

    if train is not None and train not in get_args(Train):
        msg = f"train must be one of {', '.join(map(repr, get_args(Train)))}; got {train!r}."
        raise ValueError(msg)
    if max_epochs is not None and max_epochs < 1:
        msg = f"max_epochs must be at least 1; got {max_epochs}. The model's own choice: max_epochs=None."
        raise ValueError(msg)
    if batch_size is not None and batch_size < 1:
        msg = f"batch_size must be at least 1 cell; got {batch_size}. What suits the device: batch_size=None."
        raise ValueError(msg)


def query_and_reference(
    adata: AnnData,
    reference: AnnData,
    model: FoundationModel,
    *,
    layer: str | None,
    reference_layer: str | None,
    caller: str,
) -> tuple[CountsReader, CountsReader, NDArray[np.int64]]:
    """Readers of both, and the vocabulary positions of the genes that both measured.

    Raises
    ------
    ValueError
        If values of either are neither counts nor log1p-normalised, too few genes are known, or the two share none of
        them or are of two species.
    """
    from scfoundry.data.matrix.reader import CountsReader

    reader = CountsReader(adata, model.genes, layer=layer, caller=caller)
    teacher = CountsReader(reference, model.genes, layer=reference_layer, caller=f"{caller} (reference)")
    _refuse_two_species(reader, teacher)
    shared = np.intersect1d(reader.alignment.measured, teacher.alignment.measured).astype(np.int64)
    if not len(shared):
        msg = (
            f"adata and reference have no gene of {model.provenance['weights']} in common: "
            f"{reader.alignment.summary()} in adata, {teacher.alignment.summary()} in the reference. "
            "Compare adata.var_names with reference.var_names."
        )
        raise ValueError(msg)
    return reader, teacher, shared


def _refuse_two_species(reader: CountsReader, teacher: CountsReader) -> None:
    query, reference = ("mouse" if r.alignment.scheme.startswith("mouse") else "human" for r in (reader, teacher))
    if query != reference:
        side, mouse = ("adata", reader) if query == "mouse" else ("reference", teacher)
        msg = (
            f"adata has {query} genes and the reference {reference} ones: labels are learned within a species. If you "
            "mean it, call mouse genes as their human orthologs: human = sf.datasets.human_genes().assign(mouse=lambda "
            f"table: table[{mouse.alignment.scheme!r}].str.split(',')).explode('mouse').set_index('mouse')['symbol']"
            f".to_dict(); {side}.var_names = [human.get(gene, gene) for gene in {side}.var_names]"
        )
        raise ValueError(msg)
