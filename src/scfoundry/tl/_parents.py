"""Two levels of labels: the parent that each label lies under, as given or by the Cell Ontology, and where both go."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from scfoundry._arguments import quoted
from scfoundry._keys import Keys, Units
from scfoundry.data.labels.hierarchy import common_parents
from scfoundry.data.labels.ontology import CellOntology
from scfoundry.tl._label_slots import label_slots, refuse_shared_columns
from scfoundry.tl._opening import write_results

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    import numpy as np
    from anndata import AnnData
    from numpy.typing import NDArray

    from scfoundry.data.labels import Label
    from scfoundry.tasks.annotation.annotator import Annotator

__all__ = ["Parents", "parents_of", "write_both_levels"]

Parents: TypeAlias = Mapping[str, str] | Literal["cell_ontology"]

BY_ONTOLOGY = "cell_ontology"


def parents_of(parents: Parents | None, labels: Sequence[Label], every: Collection[str], caller: str) -> list[str]:
    """The parent of each label that is learned; none if there are no ``parents``.

    ``every``: all labels of the reference, also those that no cell is learned from of.

    Raises
    ------
    ValueError
        If a label has no parent, or two; if what has a parent is no label; if parents go round in a circle; or if all
        labels have the same one.
    """
    if parents is None:
        return []
    if isinstance(parents, str):
        found = _by_ontology(parents, labels, caller)
    else:
        _check(parents, labels, every, caller)
        found = [parents[label.name] for label in labels]
    if len(set(found)) == 1:
        msg = (
            f"{caller}: all labels lie under {found[0]!r}, so that the upper level would say nothing. Group them by "
            "narrower parents, or leave them on one level: parents=None."
        )
        raise ValueError(msg)
    refuse_shared_columns(sorted(set(found)), caller=caller)
    return found


def _by_ontology(parents: str, labels: Sequence[Label], caller: str) -> list[str]:
    if parents != BY_ONTOLOGY:
        msg = (
            f"{caller}: parents maps labels to their parents, or is {BY_ONTOLOGY!r}; got {parents!r}. Give every label "
            f'its own: parents={{"{labels[0].name}": "..."}}.'
        )
        raise ValueError(msg)
    if missing := [label.name for label in labels if label.term is None]:
        msg = (
            f"{caller}: the Cell Ontology has no term for {quoted(missing)}, and so no parent. Rename them "
            "(sf.tl.describe(labels) shows what is found), or map all labels yourself: "
            f'parents={{"{missing[0]}": "T cell", ...}}.'
        )
        raise ValueError(msg)
    ontology = CellOntology.load()
    return [ontology[term].name for term in common_parents([str(label.term) for label in labels], ontology)]


def _check(parents: Mapping[str, str], labels: Sequence[Label], every: Collection[str], caller: str) -> None:
    """Refuse a mapping that gives not exactly one parent to each label."""
    if silent := [child for child, parent in parents.items() if not isinstance(parent, str) or not parent.strip()]:
        msg = f"{caller}: a parent is a name; got {parents[silent[0]]!r} for {silent[0]!r}. Name one for every label."
        raise ValueError(msg)
    for child in parents:
        seen = [child]
        while (above := parents.get(seen[-1], seen[-1])) != seen[-1]:
            if above in seen:
                circle = " -> ".join(quoted([name]) for name in [*seen[seen.index(above) :], above])
                msg = (
                    f"{caller}: parents go round in a circle: {circle}. A label that is its own group is its own "
                    f'parent: parents={{"{above}": "{above}", ...}}.'
                )
                raise ValueError(msg)
            seen.append(above)
        if len(seen) > 2:
            msg = (
                f"{caller}: {seen[1]!r}, the parent of {child!r}, has the parent {seen[2]!r}; there are two levels, "
                f'and no parent is under another. Name the upper one: parents={{"{child}": "{seen[-1]}", ...}}.'
            )
            raise ValueError(msg)
    if unknown := [child for child in parents if child not in every]:
        msg = (
            f"{caller}: parents are given for {quoted(unknown)}, but the reference has no such label; it has "
            f"{quoted(sorted(every))}. Spell them alike, or keep those there are: "
            "parents={child: parent for child, parent in parents.items() if child in set(reference.obs[labels_key])}."
        )
        raise ValueError(msg)
    if orphans := [label.name for label in labels if label.name not in parents]:
        own = "".join(f'"{name}": "{name}", ' for name in orphans[:2])
        msg = (
            f"{caller}: there is no parent for {quoted(orphans)}. Give one to every label; one that stands alone is "
            f"its own: parents | {{{own.removesuffix(', ')}}}."
        )
        raise ValueError(msg)


def write_both_levels(
    adata: AnnData,
    key: str,
    annotator: Annotator,
    scores: NDArray[np.float32],
    named: NDArray[np.bool_],
    origin: dict[str, Any],
    *,
    caller: str,
) -> None:
    """Write labels, and parents if there are any; what was written of parents by an earlier call goes."""
    names = [label.name for label in annotator.labels]
    upper = Keys.parent(key)
    slots: dict[str, Any] = {}
    if "parent" in getattr(adata.uns.get(key, {}).get(Keys.REFERENCE), "columns", ()):
        slots |= dict.fromkeys((f"obs/{upper}", f"obs/{Keys.score(upper)}", f"obsm/{Keys.scores(upper)}"))
    how: dict[str, Any] = {"named": named, "caller": caller}
    slots |= label_slots(adata, key, names, scores=scores, decided=annotator.decided(scores), **how)
    if annotator.parents:
        above, sums = annotator.parent_scores(scores)
        origin[Keys.REFERENCE]["parent"] = list(annotator.parents)
        slots |= label_slots(adata, upper, above, scores=sums, decided=sums, **how)
    write_results(adata, slots | {f"uns/{key}": origin}, units=Units.PROBABILITY, caller=caller)
