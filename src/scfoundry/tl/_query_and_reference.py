"""Cells to annotate and cells to learn from: whether anything is learned, and what they share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scfoundry._keys import Keys
from scfoundry.tl._opening import open_fitted, record, refuse_learning

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from scfoundry.data.matrix.cells import Cells
    from scfoundry.data.matrix.reader import CountsReader

__all__ = ["open_learned", "record_learned", "shared_genes"]


def open_learned(model: Any, kind: type[Any], learning: Mapping[str, Any], key: str, *, caller: str) -> tuple[Any, Any]:
    """What was fitted before, if it was, and the model.

    Raises
    ------
    CheckpointError, FileNotFoundError, ValueError
        As `open_fitted` does; if arguments of learning come with what was fitted, or there is neither that nor the
        ``reference`` and its ``key``.
    """
    fitted, weights = open_fitted(model, kind, caller=caller)
    given = [name for name, value in learning.items() if value is not None]
    if fitted is not None:
        refuse_learning(given, caller=caller)
    elif missing := [name for name in ("reference", key) if name not in given]:
        msg = (
            f"{' and '.join(missing)} is missing: {caller} learns from a reference, {caller}(adata, reference, "
            f"{key}=...). Without one it takes what was fitted before: {caller}(adata, model=fitted)."
        )
        raise ValueError(msg)
    return fitted, weights


def shared_genes(query: Cells, reference: Cells, model: Any) -> NDArray[np.int64]:
    """Vocabulary positions of the genes that both measured.

    Raises
    ------
    ValueError
        If there are none, or the two are of two species.
    """
    shared = np.intersect1d(query.measured, reference.measured)
    if query.source is not None and reference.source is not None:
        _refuse_two_species(query.source, reference.source)
        if not len(shared):
            msg = (
                f"adata and reference have no gene of {model.provenance['weights']} in common: "
                f"{query.source.alignment.summary()} in adata, {reference.source.alignment.summary()} in the "
                "reference. Compare adata.var_names with reference.var_names."
            )
            raise ValueError(msg)
    return shared


def record_learned(
    weights: Any, fitted: Any, cells: Cells, names: Sequence[str], params: Mapping[str, Any]
) -> dict[str, Any]:
    """The record, with the number of genes that cells and reference share, and of cells that each name comes from."""
    n_cells = pd.DataFrame({"n_cells": fitted.n_cells}, index=pd.Index(names))
    n_shared = int(np.isin(fitted.genes, cells.measured).sum())
    return record(weights, cells, params, shared_genes=n_shared) | {Keys.REFERENCE: n_cells}


def _refuse_two_species(reader: CountsReader, other: CountsReader) -> None:
    query, reference = ("mouse" if r.alignment.scheme.startswith("mouse") else "human" for r in (reader, other))
    if query != reference:
        name, mouse = ("adata", reader) if query == "mouse" else ("reference", other)
        msg = (
            f"adata has {query} genes and the reference {reference} ones: labels are learned within a species. If you "
            "mean it, call mouse genes as their human orthologs: human = sf.datasets.human_genes().assign(mouse=lambda "
            f"table: table[{mouse.alignment.scheme!r}].str.split(',')).explode('mouse').set_index('mouse')['symbol']"
            f".to_dict(); {name}.var_names = [human.get(gene, gene) for gene in {name}.var_names]"
        )
        raise ValueError(msg)
