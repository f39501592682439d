"""Cell types learned from labelled cells, with any model that embeds."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np

from scfoundry.data.labels import Label
from scfoundry.model._capabilities import Embeds, FineTunesLabels, ReadsTexts, Tunable, can, lack_of, require
from scfoundry.tasks._fitted import read_fitted, write_fitted
from scfoundry.tasks.annotation.cell_heads import CellHeads
from scfoundry.tasks.annotation.text_head import TextHead

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from scfoundry._device import Compute
    from scfoundry.data.matrix.cells import Cells

__all__ = ["Annotator", "Train", "recipe_of"]

Train = Literal["all", "head"]


class FineTuned:
    """Labels by the model itself, which was fine-tuned on them as its authors published."""

    shared_genes_only: ClassVar[bool] = False

    def predict(self, model: Any, cells: Cells, labels: Sequence[Label], compute: Compute) -> NDArray[np.float32]:
        """Probabilities of the labels, (n_obs, L)."""
        return model.label_probabilities(cells, labels, compute)

    def arrays(self) -> dict[str, NDArray]:
        """Nothing: all that was learned is in the model."""
        return {}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray]) -> Self:
        """The same for any model."""
        return cls()


RECIPES = {"fine-tuned model": FineTuned, "head on texts": TextHead, "heads on embedding and genes": CellHeads}


def recipe_of(
    model: Any, *, train: Train | None, max_epochs: int | None = None
) -> type[FineTuned | TextHead | CellHeads]:
    """How a model learns labels.

    Raises
    ------
    ValueError
        If all weights are to be trained of a model that has no way to, or epochs are asked of a head.
    """
    weights, published = model.provenance["weights"], can(model, FineTunesLabels)
    if train == "all" and not published and not can(model, Tunable):
        why = lack_of(model, FineTunesLabels) or f"The weights {weights!r} cannot be fine-tuned."
        msg = f'{why} A reference trains a head on them: train="head".'
        raise ValueError(msg)
    tuned = train == "all" or (train is None and published)
    if max_epochs is not None and not tuned:
        more = ', or fine-tune all weights: train="all"' if published or can(model, Tunable) else ""
        msg = (
            f"A head on the weights {weights!r} is fitted until it is best, without epochs; got max_epochs="
            f"{max_epochs}. Leave it out: max_epochs=None{more}."
        )
        raise ValueError(msg)
    if tuned:
        return FineTuned if published else CellHeads
    return TextHead if can(model, ReadsTexts) else CellHeads


@dataclass(frozen=True, eq=False)
class Annotator:
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
        How labels are read off a cell, with what was learned for it.

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
    recipe: FineTuned | TextHead | CellHeads = field(repr=False)

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
        train: Train | None = None,
        max_epochs: int | None = None,
        seed: int = 0,
        compute: Compute,
    ) -> Self:
        """Learn the labels of a reference.

        Parameters
        ----------
        model
            Any that embeds. It stays as it is.
        reference
            Labelled cells.
        labels
            Their labels; a model that reads texts begins with what the texts say.
        codes
            Number of the label of every cell, (n_obs,).
        query
            Cells to annotate, which play a part without labels: they stand in the contexts of the reference, and
            axes along which cells differ are found by them, too.
        genes
            Vocabulary positions of the genes to learn from; those that reference and query measured if `None`.
        train
            ``"head"``, or ``"all"`` weights: as the model's authors published, or its encoder with a linear head until
            held-out cells are named no better. ``"all"`` if `None` where there is a published way, else ``"head"``.
        max_epochs
            Passes over the cells, for ``train="all"``; the way's own number if `None`.
        seed
            Of everything random.
        compute
            Where and how precisely.

        Raises
        ------
        ValueError
            If the model cannot learn so; or if cells have no label, or labels no cell.
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
        if genes is None:
            genes = reference.measured if query is None else np.intersect1d(reference.measured, query.measured)
        genes = np.unique(genes).astype(np.int64)
        fitted: FineTuned | TextHead | CellHeads
        if recipe is FineTuned:
            how: dict[str, Any] = {"max_epochs": max_epochs, "seed": seed, "compute": compute}
            model, fitted = model.fine_tune_labels(reference, labels, codes, **how), FineTuned()
        elif recipe is TextHead:
            fitted = TextHead.fit(model, reference, labels, codes, query=query, genes=genes, compute=compute)
        else:
            model, fitted = CellHeads.fit(
                model,
                reference,
                codes,
                query=query,
                genes=genes,
                tune=train == "all",
                max_epochs=max_epochs,
                seed=seed,
                compute=compute,
            )
        return cls(model, tuple(labels), genes, np.bincount(codes, minlength=len(labels)), fitted)

    def predict(self, cells: Cells, compute: Compute) -> NDArray[np.float32]:
        """Probability of every label, float32, (n_obs, L).

        Each data set in contexts of its own. All 0 for cells that express none of the genes that are read: those
        learned from, or all that the model knows if it reads others, too.
        """
        read = cells.only(self.genes) if self.recipe.shared_genes_only else cells
        probabilities = self.recipe.predict(self.model, read, self.labels, compute)
        return np.where(read.empty[:, None], np.float32(0), probabilities)

    def save(self, folder: str | Path) -> None:
        """Write to a folder, the model with it; what `load` reads predicts bit for bit the same."""
        recipe = next(name for name, kind in RECIPES.items() if isinstance(self.recipe, kind))
        write_fitted(
            folder,
            type(self).__name__,
            self.model,
            arrays={"genes": self.genes, "n_cells": self.n_cells}
            | {f"recipe_{name}": values for name, values in self.recipe.arrays().items()},
            values={"recipe": recipe, "labels": [asdict(label) for label in self.labels]},
        )

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read what `save` wrote.

        Raises
        ------
        FileNotFoundError
            If the folder holds no fitted object.
        CheckpointError
            If it holds one of another kind, or is damaged.
        """
        model, arrays, values = read_fitted(folder, cls.__name__)
        labels = tuple(
            Label(label["name"], tuple(label["texts"]), label["term"], tuple(label["markers"]))
            for label in values["labels"]
        )
        stored = {name.removeprefix("recipe_"): a for name, a in arrays.items() if name.startswith("recipe_")}
        recipe: Any = RECIPES[values["recipe"]]
        return cls(model, labels, arrays["genes"], arrays["n_cells"], recipe.from_arrays(stored))
