"""Cells to annotate and cells to learn from: what they share, and whether anything is learned."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from scfoundry.tl._opening import at_least_one

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from scfoundry.data.matrix.cells import Cells
    from scfoundry.data.matrix.reader import CountsReader

__all__ = ["check_training", "reference_given", "shared_genes"]


def check_training(*, train: str | None, max_epochs: int | None) -> None:
    """Refuse arguments of training that are out of range."""
    from scfoundry.tasks.annotation.annotator import Train

    at_least_one(max_epochs=max_epochs)
    if train is not None and train not in get_args(Train):
        msg = f"train must be one of {', '.join(map(repr, get_args(Train)))}; got {train!r}."
        raise ValueError(msg)


def reference_given(fitted: bool, learning: dict[str, Any], key: str, *, caller: str) -> None:
    """Refuse a reference beside what was fitted before, and to learn without one.

    Parameters
    ----------
    fitted
        Whether the model is a fitted object.
    learning
        Arguments that say what to learn from, and how; `None` where they were left out.
    key
        Which of them, beside ``reference``, is needed.
    caller
        The user's function.

    Raises
    ------
    ValueError
        If arguments are missing, or would have no effect.
    """
    given = [name for name, value in learning.items() if value is not None]
    if fitted and given:
        msg = (
            f"The model was fitted before and learns no more, so that {', '.join(given)} would have no effect. Leave "
            f"them out: {caller}(adata, model=fitted). Or learn anew, from a model that is not fitted."
        )
        raise ValueError(msg)
    if not fitted and (missing := [name for name in ("reference", key) if name not in given]):
        msg = (
            f"{' and '.join(missing)} is missing: {caller} learns from a reference, {caller}(adata, reference, "
            f"{key}=...). Without one it takes what was fitted before: {caller}(adata, model=fitted)."
        )
        raise ValueError(msg)


def shared_genes(query: Cells, reference: Cells, model: Any) -> NDArray[np.int64]:
    """Vocabulary positions of the genes that both measured.

    Raises
    ------
    ValueError
        If there are none, or the two are of two species.
    """
    if query.source is None or reference.source is None:
        return np.intersect1d(query.measured, reference.measured)
    _refuse_two_species(query.source, reference.source)
    shared = np.intersect1d(query.measured, reference.measured)
    if not len(shared):
        msg = (
            f"adata and reference have no gene of {model.provenance['weights']} in common: "
            f"{query.source.alignment.summary()} in adata, {reference.source.alignment.summary()} in the reference. "
            "Compare adata.var_names with reference.var_names."
        )
        raise ValueError(msg)
    return shared


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
