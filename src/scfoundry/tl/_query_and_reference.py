"""Cells to annotate and cells to learn from: whether anything is learned, and what they share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scfoundry.tl._opening import refuse_learning

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from scfoundry.data.matrix.cells import Cells
    from scfoundry.data.matrix.reader import CountsReader

__all__ = ["check_reference", "shared_genes"]


def check_reference(learning: Mapping[str, Any], key: str, *, fitted: bool, caller: str) -> None:
    """Refuse arguments of learning with what was fitted before, and to learn without ``reference`` and ``key``."""
    given = [name for name, value in learning.items() if value is not None]
    if fitted:
        refuse_learning(given, caller=caller)
    elif missing := [name for name in ("reference", key) if name not in given]:
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
