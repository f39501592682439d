"""Cell types learned from labelled cells, with any model that embeds."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from scfoundry.data.labels import Label
from scfoundry.model._capabilities import Embeds, FineTunesLabels, ReadsTexts, Tunable, can, lack_of, require
from scfoundry.nn.label_loss import PLAIN, LabelLoss
from scfoundry.tasks._fitted import Fitted, prefixed, under
from scfoundry.tasks.annotation.cell_heads import CellHeads
from scfoundry.tasks.annotation.text_head import TextHead

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from scfoundry._device import Compute
    from scfoundry.data.matrix.cells import Cells

__all__ = ["Annotator", "Train", "recipe_of"]

Train = Literal["all", "lora", "head"]


def recipe_of(model: Any, *, train: Train, max_epochs: int | None = None) -> type[TextHead | CellHeads] | None:
    """Heads by which a model learns labels; `None` if it is fine-tuned on them itself, as its authors published.

    Raises `ValueError` if all weights are to be trained of a model that has no way to, or epochs are asked of a head.
    """
    weights, published, tuned = model.provenance["weights"], can(model, FineTunesLabels), train != "head"
    if tuned and not published and not can(model, Tunable):
        why = lack_of(model, FineTunesLabels) or f"The weights {weights!r} cannot be fine-tuned."
        msg = f'{why} A reference trains a head on them: train="head".'
        raise ValueError(msg)
    if max_epochs is not None and not tuned:
        more = ', or fine-tune all weights: train="all"' if published or can(model, Tunable) else ""
        msg = (
            f"A head on the weights {weights!r} is fitted until it is best, without epochs; got max_epochs="
            f"{max_epochs}. Leave it out: max_epochs=None{more}."
        )
        raise ValueError(msg)
    if tuned:
        return None if published else CellHeads
    return TextHead if can(model, ReadsTexts) else CellHeads


@dataclass(frozen=True, eq=False)
class Annotator(Fitted):
    """What a model has learned of the labels of a reference.

    Attributes
    ----------
    model
        The model that was given, or the copy of it that was fine-tuned.
    labels
        L labels.
    genes
        Vocabulary positions of the genes that it was learned from.
    n_cells
        Cells that each label was learned from, (L,).
    recipe
        Heads that read labels off a cell; `None` if the fine-tuned model does.
    parents
        The parent that each label lies under, (L,); none if labels are of one level.

    Examples
    --------
    >>> import scfoundry as sf
    >>> annotator = sf.tl.annotate(adata, reference, labels_key="cell_type", return_fitted=True)
    >>> annotator.save("my_annotator")
    >>> sf.tl.annotate(other, model="my_annotator")
    """

    model: Any
    labels: tuple[Label, ...]
    genes: NDArray[np.int64]
    n_cells: NDArray[np.int64]
    recipe: TextHead | CellHeads | None = field(repr=False)
    parents: tuple[str, ...] = ()

    @classmethod
    def fit(
        cls,
        model: Any,
        reference: Cells,
        labels: Sequence[Label],
        codes: NDArray[np.int64],
        *,
        query: Cells | None = None,
        genes: NDArray[np.int64] | None = None,
        train: Train = "head",
        max_epochs: int | None = None,
        loss: LabelLoss = PLAIN,
        parents: Sequence[str] = (),
        seed: int = 0,
        compute: Compute,
    ) -> Self:
        """Learn the labels of a reference; the model stays as it is.

        Parameters
        ----------
        model
            Any that embeds.
        reference
            Labelled cells.
        labels
            Their labels; a model that reads texts begins with the probabilities by these.
        codes
            Number of the label of every cell, (n_obs,).
        query
            Cells to annotate, without labels: they stand in the contexts of the reference, and axes along which cells
            differ are found by them, too.
        genes
            Vocabulary positions of the genes to learn from; those that reference and query measured if `None`.
        train
            ``"head"``, or ``"all"`` weights: as the model's authors published, or its encoder with a linear head until
            held-out cells are named no better; ``"lora"`` the same by matrices of low rank in attention alone.
        max_epochs
            Passes over the cells, for all that is no ``"head"``; the way's own number if `None`.
        loss
            What is minimised. If the sizes of labels enter it, probabilities are for labels of one size.
        parents
            The parent that each label lies under.
        seed
            Of everything random.
        compute
            Where and how precisely.

        Raises
        ------
        ValueError
            If the model cannot learn so; if cells have no label, or labels no cell; or if some labels have no parent.
        """
        require(model, Embeds, caller="Annotator.fit")
        recipe = recipe_of(model, train=train, max_epochs=max_epochs)
        if set(codes.tolist()) != set(range(len(labels))):
            msg = (
                f"codes must number the {len(labels)} labels, with at least one cell each; got the numbers "
                f"{sorted(set(codes.tolist()))}. Leave out cells without a label and labels without cells: "
                "adata = adata[adata.obs[key].notna()].copy(); adata.obs[key].cat.remove_unused_categories()."
            )
            raise ValueError(msg)
        if parents and len(parents) != len(labels):
            msg = f"parents must name one for each of the {len(labels)} labels, or be empty; got {len(parents)}."
            raise ValueError(msg)
        if genes is None:
            genes = reference.measured if query is None else np.intersect1d(reference.measured, query.measured)
        genes = np.unique(genes).astype(np.int64)
        fitted: TextHead | CellHeads | None = None
        loss.warn_if_idle(len(labels), caller="Annotator.fit")
        how: dict[str, Any] = {"loss": loss, "seed": seed, "compute": compute}
        if recipe is None:
            how |= {"max_epochs": max_epochs, "lora": train == "lora"}
            model = model.fine_tune_labels(reference, labels, codes, **how)
        elif recipe is TextHead:
            fitted = TextHead.fit(model, reference, labels, codes, query=query, genes=genes, **how)
        else:
            how |= {"max_epochs": max_epochs, "tune": train in ("all", "lora"), "lora": train == "lora"}
            model, fitted = CellHeads.fit(model, reference.only(genes), codes, query=query, **how)
        return cls(model, tuple(labels), genes, np.bincount(codes, minlength=len(labels)), fitted, tuple(parents))

    def predict(self, cells: Cells, compute: Compute) -> NDArray[np.float32]:
        """Probability of every label, float32, (n_obs, L).

        Each data set in contexts of its own. All 0 for cells that express none of the genes that are read: those
        learned from, or all that the model knows if it reads others, too.
        """
        if self.recipe is None:
            probabilities = self.model.label_probabilities(cells, self.labels, compute)
        else:
            cells = cells.only(self.genes) if self.recipe.shared_genes_only else cells
            probabilities = self.recipe.predict(self.model, cells, self.labels, compute)
        return np.where(cells.empty[:, None], np.float32(0), probabilities)

    def parent_scores(self, scores: NDArray[np.float32]) -> tuple[list[str], NDArray[np.float32]]:
        """Names of the P parents, sorted, and their probabilities, (n_obs, P), sums over the labels under each."""
        names, parent_of = np.unique(self.parents, return_inverse=True)
        under = np.eye(len(names), dtype=np.float32)[parent_of]
        return names.tolist(), np.minimum(scores @ under, np.float32(1))

    def decided(self, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """Probabilities (n_obs, L) of the labels that a cell may be called, 0 for those not under its best parent.

        From the top down: five kinds of T cell at 0.15 each outweigh a B cell at 0.25.
        """
        if not self.parents:
            return scores
        names, of_parents = self.parent_scores(scores)
        best = np.array(names)[of_parents.argmax(1)]
        return np.where(best[:, None] == np.array(self.parents), scores, np.float32(0))

    def _stored(self) -> tuple[dict[str, NDArray], dict[str, Any]]:
        arrays = {"genes": self.genes, "n_cells": self.n_cells}
        values: dict[str, Any] = {
            "labels": [asdict(label) for label in self.labels],
            "recipe": None,
            "parents": self.parents,
        }
        if self.recipe is not None:
            values["recipe"] = type(self.recipe).__name__
            arrays |= prefixed("recipe_", self.recipe.arrays())
        return arrays, values

    @classmethod
    def _restored(cls, model: Any, arrays: Mapping[str, NDArray], values: Mapping[str, Any]) -> Self:
        labels = tuple(
            Label(label["name"], tuple(label["texts"]), label["term"], tuple(label["markers"]))
            for label in values["labels"]
        )
        kind: Any = {"TextHead": TextHead, "CellHeads": CellHeads, None: None}[values["recipe"]]
        recipe = kind and kind.from_arrays(under("recipe_", arrays))
        parents = tuple(values.get("parents", ()))
        return cls(model, labels, arrays["genes"], arrays["n_cells"], recipe, parents)
