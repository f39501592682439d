"""Which cells are sensitive to a drug."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scfoundry._arguments import checks_arguments, quoted, require_column
from scfoundry._compat import obs_column
from scfoundry._keys import Keys, Units
from scfoundry.data.modality import to_write
from scfoundry.tl._drug_response import ALONE, alone, recorded, source_of
from scfoundry.tl._opening import new_seed, open_model, write_results

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData
    from numpy.typing import NDArray

    from scfoundry._device import Precision
    from scfoundry.model import FoundationModel
    from scfoundry.tasks.drug_response.drug_response import DrugResponse

__all__ = ["drug_sensitivity"]

CALLER = "sf.tl.drug_sensitivity"


@checks_arguments
def drug_sensitivity(
    adata: AnnData | MuData,
    *,
    response_key: str | None = None,
    positive: str | None = None,
    n_shots: int | float | None = None,
    bulk: DrugResponse | str | Path | None = None,
    drug: str | None = None,
    model: str | Path | FoundationModel | None = ALONE,
    layer: str | None = None,
    modality: str = Keys.RNA,
    rng: int | np.random.Generator | None = 0,
    key_added: str = Keys.DRUG_SENSITIVITY,
    device: str = "auto",
    precision: Precision = "auto",
    batch_size: int | None = None,
    copy: bool = False,
) -> AnnData | MuData | None:
    """Probability that a cell is sensitive to a drug, from labelled cells or from bulk lines.

    With ``response_key`` a logistic regression learns from the cells that have a label, and says the probability of
    all. A cell that was learned from gets that of a fit without it (five folds). With ``bulk`` nothing is learned
    here: what `sf.tl.drug_response` learned from lines is read of the cells, each gene brought to its mean and
    deviation in the lines.

    Parameters
    ----------
    adata
        Cells x genes; in memory, backed, dask, or in a `MuData`. With ``model="expression"`` any finite values, as in
        `sf.tl.drug_response`; a model reads counts or log1p-normalised values.
    response_key
        Column of ``obs`` with two labels; missing ones are those to predict.
    positive
        The label that means sensitive.
    n_shots
        Learn from so many cells of each label, or from a share of both (``0.05``), drawn at random; from all if `None`.
    bulk, drug
        Instead of labels: a `sf.tasks.DrugResponse`, or its folder, and the drug, one that it learned from or has
        SMILES of.
    model
        ``"expression"`` (or `None`), or a model as in `sf.tl.drug_response`, whose latent is read, too. Of ``bulk`` it
        is that which it was fitted with.
    layer, modality, key_added
        Layer with the values (``X`` if `None`), modality of a `MuData`, and name for the results.
    rng
        Seed or generator of draws and folds.
    device, precision, batch_size
        As in `sf.tl.embed`.
    copy
        Return a changed copy, in memory, instead of changing ``adata``.

    Returns
    -------
    `None`, or the copy if ``copy=True``. With ``key_added`` for ``drug_sensitivity``, sets:

    ``adata.obs["drug_sensitivity"]``
        Probability that the cell is sensitive, float32. By ``bulk`` it is relative to the other cells: the response
        predicted below their mean. NaN of the only learned cell of a label, which no fit can leave out.
    ``adata.uns["drug_sensitivity"]``
        ``"n_learned"``: cells per label that were learned from, none by ``bulk``; ``"params"``; ``"provenance"``.

    Raises
    ------
    ValueError
        If neither labels nor a fitted ``bulk`` are given, or both; the column, the label or the drug is unknown;
        labels are not two, or one has no cell; shots are out of range; values are missing, infinite, or not what the
        model reads; or ``adata`` is a view of data on disk. Nothing has been computed then, and nothing written.
    FileNotFoundError
        If there are no such weights.

    Notes
    -----
    High scores on published sets say little: resistant cells often come from another culture than sensitive ones, and
    two cells of each suffice to tell these apart (A375 and PLX4720: an area under the ROC curve of 1.00). Transfer
    from bulk lines is the question that matters; there it was 0.94, more than that of 95 % of other drugs, on this one
    small set. ``benchmarks/results/drug_sensitivity.md`` has both.

    Examples
    --------
    >>> import scanpy as sc, scfoundry as sf
    >>> cells = sc.datasets.pbmc68k_reduced().raw.to_adata()  # yours: cells with known response
    >>> cells.obs["response"] = ["sensitive", "resistant"] * (cells.n_obs // 2)
    >>> sf.tl.drug_sensitivity(cells, response_key="response", positive="sensitive", n_shots=0.05)
    >>> cells.obs["drug_sensitivity"]
    """
    from scfoundry._device import Compute
    from scfoundry.tasks.drug_response.lines import Lines
    from scfoundry.tasks.drug_response.sensitivity import (
        CellClassifier,
        draw_shots,
        left_out_probabilities,
        transferred,
    )

    if (response_key is None) == (bulk is None):
        msg = (
            'Give labels of cells to learn from, or what was learned from bulk lines: response_key="response", '
            'positive="sensitive"; or bulk=fitted, drug="Erlotinib".'
        )
        raise ValueError(msg)
    adata, target = to_write(adata, modality, copy=copy, caller=CALLER)
    compute = Compute.resolve(device, precision, batch_size)
    seed = new_seed(rng)
    labels, learned = np.zeros(0, dtype=bool), np.zeros(0, dtype=np.int64)
    if bulk is None:
        loaded = None if alone(model) else open_model(model, caller=CALLER)
        labels, labelled = _labels(target, response_key, positive)
        # In the order of names: that of the data plays no part.
        by_name = labelled[np.argsort(target.obs_names.to_numpy().astype(str)[labelled], kind="stable")]
        learned = by_name if n_shots is None else draw_shots(labels, by_name, _shots(n_shots), seed)
    else:
        fitted = _bulk(bulk, drug, given={"positive": positive, "n_shots": n_shots}, model=model)
        loaded = fitted.model
    source = source_of(target, loaded, layer=layer, compute=compute, caller=CALLER)
    genes = source.own_genes() if bulk is None else fitted.genes
    cells = Lines.read(source, genes, model=loaded, further={}, columns={}, compute=compute)
    if bulk is None:
        shown, truth = cells.take(learned).blocks, labels[learned]
        without, ridge = left_out_probabilities(shown, truth, seed)
        probability = CellClassifier.fit(shown, truth, ridge).probabilities(cells.blocks)
        probability[learned] = without
    else:
        probability = transferred(fitted, str(drug), cells, compute)[1]

    params: dict[str, Any] = {
        "response_key": response_key,
        "positive": positive,
        "n_shots": n_shots,
        "drug": drug,
        "layer": layer,
        "precision": precision,
        "rng": rng,
    }
    n_learned = {} if bulk is not None else _counts(labels[learned])
    origin = recorded(source, loaded, params) | {"n_learned": n_learned}
    slots = {f"obs/{key_added}": probability.astype(np.float32), f"uns/{key_added}": origin}
    # No fit can leave out the only learned cell of a label.
    undefined = np.isin(np.arange(target.n_obs), learned) & np.isnan(probability)
    write_results(target, slots, units=Units.PROBABILITY, caller=CALLER, undefined=undefined)
    return adata if copy else None


def _labels(target: AnnData, key: Any, positive: str | None) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Whether a cell is sensitive, and the rows that say so."""
    require_column(target.obs, key, fix="response_key")
    column = obs_column(target, key)
    present = sorted({str(label) for label in column.dropna()})
    if len(present) != 2:
        msg = (
            f"adata.obs[{key!r}] holds {len(present)} labels, {quoted(present, 5)}; two are needed: sensitive and "
            f"resistant. Keep their rows alone: adata = adata[adata.obs[{key!r}].isin([...])].copy()."
        )
        raise ValueError(msg)
    if positive is None or str(positive) not in present:
        msg = (
            f"Which label means sensitive? positive must be one of {quoted(present)}; got {positive!r}. "
            f"For example: positive={present[0]!r}."
        )
        raise ValueError(msg)
    known = np.flatnonzero(column.notna().to_numpy())
    return np.asarray(column.astype(object).map(str, na_action="ignore") == str(positive)), known


def _shots(n_shots: Any) -> int | float:
    whole = isinstance(n_shots, int | np.integer)
    if not whole and n_shots >= 1:
        msg = (
            f"n_shots must be a number of cells per label, at least 1, or a share between 0 and 1; got {n_shots!r}: "
            "n_shots=0.05."
        )
        raise ValueError(msg)
    return int(n_shots) if whole else float(n_shots)


def _bulk(bulk: Any, drug: str | None, *, given: dict[str, Any], model: Any) -> DrugResponse:
    """What was learned from lines, and can be read of cells."""
    from scfoundry.tasks.drug_response.drug_response import DrugResponse
    from scfoundry.tasks.drug_response.kernel_responses import KernelResponses

    if names := [name for name, value in given.items() if value is not None]:
        msg = f"{names[0]} is of learning from labels, and bulk has learned already: leave it out."
        raise ValueError(msg)
    if not alone(model):
        msg = "bulk brings the model that it was fitted with: leave model out, or fit sf.tl.drug_response with another."
        raise ValueError(msg)
    fitted = DrugResponse.load(bulk) if isinstance(bulk, str | Path) else bulk
    if not isinstance(fitted, DrugResponse) or not isinstance(fitted.recipe, KernelResponses):
        msg = (
            "bulk must be what sf.tl.drug_response learned in closed form: bulk = sf.tl.drug_response(lines, ..., "
            f"return_fitted=True); got {type(fitted).__name__}."
        )
        raise ValueError(msg)
    if fitted.columns:
        msg = f"Cells have no tables {quoted(fitted.columns)}, which the lines had: fit again without features."
        raise ValueError(msg)
    if drug is None or (drug not in fitted.drugs and drug not in fitted.smiles):
        msg = f"drug must be one that bulk learned from; got {drug!r}, it knows {quoted(fitted.drugs, 5)}."
        raise ValueError(msg)
    return fitted


def _counts(sensitive: NDArray[np.bool_]) -> dict[str, int]:
    counts = pd.Series(sensitive).value_counts()
    return {"sensitive": int(counts.get(True, 0)), "resistant": int(counts.get(False, 0))}
