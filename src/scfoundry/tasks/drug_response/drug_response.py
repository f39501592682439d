"""Responses of lines to drugs, learned with expression, and the latent of any model that embeds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import pandas as pd

from scfoundry._settings import logger
from scfoundry.data.fingerprints import N_BITS, morgan_fingerprints
from scfoundry.data.genes import GeneVocabulary
from scfoundry.data.molecules import molecule_graphs
from scfoundry.tasks._fitted import Fitted, prefixed, under
from scfoundry.tasks.drug_response.expected import LEAST_LINES, cross_validated
from scfoundry.tasks.drug_response.kernel_responses import KernelResponses
from scfoundry.tasks.drug_response.lines import EXPRESSION, LATENT
from scfoundry.tasks.drug_response.network import NetworkResponses
from scfoundry.tasks.drug_response.units import folds, units

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from scfoundry._device import Compute
    from scfoundry.tasks.drug_response.lines import Lines
    from scfoundry.tasks.drug_response.units import Split

    Array = NDArray[np.float64]

__all__ = ["DrugEncoder", "DrugResponse"]

DrugEncoder = Literal["morgan", "gin"]
# Share of units by which the network stops, one of so many folds.
VALIDATION_FOLDS = 10


@dataclass(frozen=True, eq=False)
class DrugResponse(Fitted):
    """What was learned of the responses of lines to drugs.

    Attributes
    ----------
    model
        The model whose latent is read; `None` if expression alone.
    genes
        Genes whose expression is read.
    drugs
        Names of the D drugs that were learned from, sorted.
    smiles
        Structures of drugs, by name, as far as they were given.
    columns
        Columns of the further tables that are read, by the name of the table.
    expected
        Per drug, ``n_lines`` that were learned from and ``expected_pearson``, by inner cross-validation.
    learned
        Lines x drugs that were learned from, each value predicted from others; in memory only.

    Examples
    --------
    >>> import scfoundry as sf
    >>> fitted = sf.tl.drug_response(lines, response="ln_ic50", smiles="smiles", return_fitted=True)  # doctest: +SKIP
    >>> fitted.save("my_drugs")  # doctest: +SKIP
    >>> sf.tl.drug_response(tumours, model="my_drugs")  # doctest: +SKIP
    """

    model: Any
    genes: GeneVocabulary
    drugs: tuple[str, ...]
    smiles: dict[str, str]
    columns: dict[str, list[str]]
    recipe: KernelResponses | NetworkResponses = field(repr=False)
    expected: pd.DataFrame
    learned: pd.DataFrame | None = field(default=None, repr=False)

    @classmethod
    def fit(
        cls,
        model: Any,
        genes: GeneVocabulary,
        lines: Lines,
        response: pd.DataFrame,
        *,
        smiles: Mapping[str, str],
        columns: Mapping[str, Sequence[str]],
        split: Split = "cold_cell",
        tissues: pd.Series | None = None,
        n_folds: int = 5,
        drug_encoder: DrugEncoder = "morgan",
        max_epochs: int | None = None,
        batch_size: int | None = None,
        checkpoint_dir: str | Path | None = None,
        seed: int = 0,
        compute: Compute,
    ) -> Self:
        """Learn from lines and their responses; lines and drugs without any are left alone.

        Parameters
        ----------
        model
            What the latent in ``lines`` is of.
        genes
            What the expression in ``lines`` is of.
        lines
            Features.
        response
            Rows are lines by name, NaN where not measured.
        smiles
            Structures by name of drug; for new drugs and ``drug_encoder="gin"``.
        columns
            Those of the further tables in ``lines``.
        split, tissues
            What is left out to see how good predictions are; tissue of every line for ``"cold_tissue"``.
        n_folds
            Of the inner cross-validation of the closed form; 0 leaves it out.
        drug_encoder
            ``"morgan"``: the closed form; ``"gin"``: the published network.
        max_epochs, batch_size, checkpoint_dir
            Most passes over the pairs, pairs per step, and where to go on from, of the network.
        seed
            Of everything random.
        compute
            Where and how precisely.

        Raises
        ------
        ValueError
            If a drug has too few lines, nothing is measured, SMILES do not parse, or the network lacks some.
        """
        measured = response.notna()
        learned = measured.loc[:, measured.any()]
        drugs = tuple(sorted(map(str, learned.columns)))
        require_lines(measured)
        names = np.sort(np.array([str(name) for name in measured.index[measured.any(axis=1)]]))
        rows = pd.Index(lines.names).get_indexer(names)
        here, table = lines.take(rows), response.loc[names, list(drugs)]
        values = table.to_numpy(dtype=np.float64)
        kept = {drug: smiles[drug] for drug in sorted(smiles)}
        of_line = None if tissues is None else tissues.loc[names].astype(str).tolist()
        of_pair = units(names.tolist(), drugs, split, of_line)
        found: KernelResponses | NetworkResponses
        if drug_encoder == "gin":
            graphs = _graphs(drugs, kept)
            left = folds(of_pair, np.isfinite(values), VALIDATION_FOLDS, seed)[0]
            how: dict[str, Any] = {"max_epochs": max_epochs, "batch_size": batch_size, "checkpoint_dir": checkpoint_dir}
            found = NetworkResponses.fit(_joined(here), values, graphs, left, **how, seed=seed, compute=compute)
            predicted = found.predict(_joined(here), graphs, compute)
            guesses = np.where(left, predicted, np.nan)
        else:
            fingerprints, structured = _fingerprints(drugs, kept)
            left_out = folds(of_pair, np.isfinite(values), n_folds, seed) if n_folds else []
            guesses = cross_validated(here.blocks, values, fingerprints, structured, left_out, split)
            found, predicted = KernelResponses.fit(here.blocks, values, fingerprints, structured)
        expected = _expected(drugs, values, guesses)
        whole = pd.DataFrame(predicted, index=names, columns=list(drugs))
        return cls(model, genes, drugs, kept, {k: list(v) for k, v in columns.items()}, found, expected, whole)

    @property
    def block_weights(self) -> dict[str, float]:
        """How much expression, latent and further tables count in the closed form; none for the network."""
        if isinstance(self.recipe, NetworkResponses):
            return {}
        return dict(zip(self.recipe.blocks, self.recipe.weights.tolist(), strict=True))

    def predict(
        self,
        lines: Lines,
        *,
        response: pd.DataFrame | None = None,
        smiles: Mapping[str, str] | None = None,
        own: bool = False,
        compute: Compute,
    ) -> pd.DataFrame:
        """Responses of lines to all drugs that were learned, and to new ones with ``smiles``; lines x drugs.

        ``response``: what is measured of these lines, which tells of the others and of new drugs; by the closed form
        only. ``own``: lines are those of the fit, and of what was learned from stands what the others said of it.
        """
        new = {name: text for name, text in sorted((smiles or {}).items()) if name not in self.drugs}
        if isinstance(self.recipe, NetworkResponses):
            structures = {name: self.smiles[name] for name in self.drugs} | new
            values = self.recipe.predict(_joined(lines), list(molecule_graphs(structures).values()), compute)
            return pd.DataFrame(values, index=lines.names, columns=list(structures))
        given = None
        if response is not None:
            given = response.reindex(index=lines.names, columns=list(self.drugs)).to_numpy(dtype=np.float64)
        values = self.recipe.predict(lines.blocks, lines.measured, given)
        if own and self.learned is not None:
            rows = self.learned.index.get_indexer(lines.names)
            values[rows >= 0] = self.learned.to_numpy()[rows[rows >= 0]]
        known = values if given is None else np.where(np.isfinite(given), given, values)
        table = pd.DataFrame(values, index=lines.names, columns=list(self.drugs))
        if new:
            of_new = pd.DataFrame(self.recipe.predict_drugs(known, morgan_fingerprints(new)), lines.names, list(new))
            table = pd.concat([table, of_new], axis=1)
        return table

    def _stored(self) -> tuple[dict[str, NDArray], dict[str, Any]]:
        arrays = {"genes": np.asarray(self.genes.ids, dtype=str)}
        arrays |= {f"expected_{name}": self.expected[name].to_numpy() for name in self.expected}
        values = {"drugs": self.drugs, "smiles": self.smiles, "columns": self.columns}
        values |= {"recipe": type(self.recipe).__name__, "species": self.genes.species}
        return arrays | prefixed("recipe_", self.recipe.arrays()), values

    @classmethod
    def _restored(cls, model: Any, arrays: Mapping[str, NDArray], values: Mapping[str, Any]) -> Self:
        kind: Any = {"KernelResponses": KernelResponses, "NetworkResponses": NetworkResponses}[values["recipe"]]
        drugs = tuple(values["drugs"])
        expected = pd.DataFrame(under("expected_", arrays), index=pd.Index(drugs, name="drug"))
        genes = GeneVocabulary(arrays["genes"].tolist(), species=values["species"])
        recipe = kind.from_arrays(under("recipe_", arrays))
        return cls(model, genes, drugs, dict(values["smiles"]), dict(values["columns"]), recipe, expected)


def require_lines(measured: pd.DataFrame) -> None:
    """Refuse drugs that are measured, but in too few lines, and tables without any measurement."""
    n_lines = measured.sum()
    if few := n_lines[(n_lines > 0) & (n_lines < LEAST_LINES)].index.astype(str).tolist():
        msg = (
            f"{len(few)} drugs are measured in fewer than {LEAST_LINES} lines, for example {few[0]!r}: nothing can be "
            f"learned of them. Leave them out: response = response.loc[:, response.notna().sum() >= {LEAST_LINES}]."
        )
        raise ValueError(msg)
    if (n_lines > 0).sum() < 2 or measured.any(axis=1).sum() < LEAST_LINES:
        msg = (
            f"Responses of {int(measured.any(axis=1).sum())} lines to {int((n_lines > 0).sum())} drugs are measured; "
            f"at least {LEAST_LINES} lines and 2 drugs are needed. Are lines named as in adata.obs_names? "
            "response.index = adata.obs_names, if the rows are the lines in order."
        )
        raise ValueError(msg)


def _joined(lines: Lines) -> Array:
    """What the network reads of a line: the latent, or else expression; and further tables."""
    first = LATENT if LATENT in lines.blocks else EXPRESSION
    return np.concatenate(
        [values for name, values in lines.blocks.items() if name == first or name not in (LATENT, EXPRESSION)], axis=1
    )


def _graphs(drugs: Sequence[str], smiles: Mapping[str, str]) -> list[Any]:
    if lacking := [drug for drug in drugs if drug not in smiles]:
        msg = (
            f"drug_encoder='gin' reads the structure of every drug; {len(lacking)} have no SMILES, for example "
            f'{lacking[0]!r}. Add them, smiles[{lacking[0]!r}] = ..., or do without: drug_encoder="morgan".'
        )
        raise ValueError(msg)
    return list(molecule_graphs({drug: smiles[drug] for drug in drugs}).values())


def _fingerprints(drugs: Sequence[str], smiles: Mapping[str, str]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Fingerprints of the drugs with a structure, and which these are."""
    structured = np.array([i for i, drug in enumerate(drugs) if drug in smiles], dtype=np.int64)
    if not len(structured):
        return np.zeros((0, N_BITS), dtype=np.uint8), structured
    if n_without := len(drugs) - len(structured):
        logger.info("%d of %d drugs have no SMILES: of these only the responses are used.", n_without, len(drugs))
    return morgan_fingerprints({drugs[i]: smiles[drugs[i]] for i in structured}), structured


def _expected(drugs: Sequence[str], values: Array, guesses: Array) -> pd.DataFrame:
    """Lines per drug, and the correlation of what was left out with what was predicted, NaN where it is not defined."""
    both = np.isfinite(values) & np.isfinite(guesses)
    found = np.full(len(drugs), np.nan)
    for j, here in enumerate(both.T):
        x, y = values[here, j], guesses[here, j]
        if len(x) >= LEAST_LINES and np.ptp(x) > 0 and np.ptp(y) > 0:
            found[j] = np.corrcoef(x, y)[0, 1]
    return pd.DataFrame(
        {"n_lines": np.isfinite(values).sum(0), "expected_pearson": found.astype(np.float32)},
        index=pd.Index(drugs, name="drug"),
    )
