"""Responses of lines to drugs that nobody has measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scfoundry._arguments import checks_arguments, quoted
from scfoundry._keys import Keys, Units
from scfoundry._settings import logger
from scfoundry.data.modality import to_write
from scfoundry.tl._drug_tables import further_tables, responses_of, smiles_of, tissues_of
from scfoundry.tl._opening import (
    announce,
    check_return,
    given,
    new_seed,
    open_fitted,
    refuse_learning,
    write_results,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import pandas as pd
    from anndata import AnnData
    from mudata import MuData

    from scfoundry._device import Precision
    from scfoundry.model import FoundationModel
    from scfoundry.tasks.drug_response.drug_response import DrugEncoder, DrugResponse
    from scfoundry.tasks.drug_response.lines import Source
    from scfoundry.tasks.drug_response.units import Split

__all__ = ["drug_response"]

CALLER = "sf.tl.drug_response"
ALONE = "expression"


@checks_arguments
def drug_response(
    adata: AnnData | MuData,
    *,
    response: pd.DataFrame | str | None = None,
    smiles: Mapping[str, str] | pd.Series | pd.DataFrame | str | None = None,
    model: str | Path | FoundationModel | DrugResponse | None = ALONE,
    split: Split = "cold_cell",
    tissue_key: str | None = None,
    features: Sequence[str] = (),
    drug_encoder: DrugEncoder = "morgan",
    n_folds: int = 5,
    max_epochs: int | None = None,
    pairs_per_step: int | None = None,
    checkpoint_dir: str | Path | None = None,
    layer: str | None = None,
    modality: str = Keys.RNA,
    rng: int | np.random.Generator | None = 0,
    key_added: str = Keys.DRUG_RESPONSE,
    device: str = "auto",
    precision: Precision = "auto",
    batch_size: int | None = None,
    copy: bool = False,
    return_fitted: bool = False,
) -> AnnData | MuData | DrugResponse | None:
    """Predict responses of cell lines to drugs, such as ln IC50, from those that were measured.

    Pairs that are NaN in ``response`` are predicted and never learned from, nor are scales taken of them: to hide a
    test set, ``response.where(sf.pp.split_drug_response(response).train)``. Lines without any response are new lines,
    drugs with SMILES alone are new drugs. The closed form (``drug_encoder="morgan"``) regresses the components of all
    responses on kernels of the lines, components of new drugs on fingerprints, and carries over what is measured of a
    line from drug to drug; ``"gin"`` is the network of CellLM :cite:p:`zhao2023celllm`, whose drug branch is that of
    TGSA.

    Parameters
    ----------
    adata
        Lines x genes; in memory, backed, dask, or in a `MuData`. With ``model="expression"`` any finite values: counts
        are normalised, others are taken for logarithms or standardised. A model reads counts or log1p-normalised
        values.
    response
        Table of lines x drugs, found by name, NaN where not measured; or the key of one in ``obsm``. With a fitted
        ``model``, what is already measured of these lines, if anything.
    smiles
        Structure by name of drug: a mapping, a table, or a key of ``uns``. Drugs may lack one; of a new drug it is all
        there is.
    model
        ``"expression"`` (or `None`) for expression alone; a model's name (its default weights), a name of
        `sf.model.list_pretrained`, a folder, or a loaded model, whose latent is read beside expression. Or a
        `sf.tasks.DrugResponse`, or its folder, which learns no more.
    split
        What is left out to learn how good predictions are: ``"warm"`` (pairs), ``"cold_cell"`` (lines),
        ``"cold_tissue"``, ``"cold_drug"``. Predictions of the closed form do not depend on it.
    tissue_key
        Column of ``obs`` with the tissue, for ``split="cold_tissue"``.
    features
        Keys of ``obsm`` with further tables of lines, such as mutations or methylation.
    drug_encoder
        ``"morgan"``: closed form, Morgan fingerprints; ``"gin"``: graph isomorphism network, trained together with what
        reads the latent (or expression), and slow without a GPU.
    n_folds
        Of the inner cross-validation; 0 leaves it out.
    max_epochs, pairs_per_step, checkpoint_dir
        Of the network: most passes over the pairs (300 if `None`; it stops once held-out pairs are predicted no
        better), pairs per step (16 if `None`, as published), and where an interrupted training goes on from.
    layer, modality, key_added
        Layer with the values (``X`` if `None`), modality of a `MuData`, and name for the results.
    rng
        Seed or generator.
    device, precision, batch_size
        As in `sf.tl.embed`.
    copy, return_fitted
        Return a changed copy, in memory, instead of changing ``adata``; or what was learned, to save or use again.

    Returns
    -------
    `None`, the copy if ``copy=True``, or a `scfoundry.tasks.DrugResponse` if ``return_fitted=True``. With ``key_added``
    for ``drug_response``, sets:

    ``adata.obsm["drug_response"]``
        Table of lines x drugs, float32, on the scale of ``response``: drugs that were learned from, in their order,
        then new ones. By the closed form a measured pair is predicted from the others, itself left out.
    ``adata.uns["drug_response"]``
        ``"drugs"``: per drug ``n_lines`` that were learned from and ``expected_pearson``, the correlation over lines to
        expect of what ``split`` left out (NaN where unknown), for the network that of the pairs by which it stopped,
        too high for this reason; ``"weights"``, how much expression, latent and further tables count in the closed
        form; ``"params"``; ``"provenance"``: weights with their checksum, licence, citation, versions, and how genes
        were matched.

    Raises
    ------
    ValueError
        If lines, drugs or structures repeat, or none is in both tables; nothing is measured, or a drug in fewer than
        three lines; SMILES do not parse; a new drug or one for the network has none; values are missing or infinite,
        or not what the model reads; lines express nothing; an argument is unknown, out of range or of no effect; or
        ``adata`` is a view of data on disk. Nothing has been computed then, and nothing written.
    FileNotFoundError
        If there are no such weights.
    ImportError
        If SMILES are given, and rdkit (for ``"gin"`` torch-geometric, too) is not installed.

    Notes
    -----
    The mean of every drug already correlates with the responses of new lines at 0.84. `sf.metrics.drug_response` says
    what is added within drugs; ``benchmarks/results/drug_response.md`` has that beside ridge regression, forests and
    neighbours. None of three small models that were measured (CellPLM, CellLM, scPaLM) added to expression there,
    hence the default.

    Examples
    --------
    >>> import numpy as np, pandas as pd, scanpy as sc, scfoundry as sf
    >>> lines = sc.datasets.pbmc68k_reduced().raw.to_adata()[:60].copy()  # yours: cell lines
    >>> effect = lines[:, "CD3D"].X.toarray().ravel()
    >>> lines.obsm["ln_ic50"] = pd.DataFrame({"A": effect, "B": 2 - effect, "C": effect + 1}, index=lines.obs_names)
    >>> sf.tl.drug_response(lines, response="ln_ic50")
    >>> lines.uns["drug_response"]["drugs"]
    """
    from scfoundry._device import Compute
    from scfoundry.tasks.drug_response.drug_response import require_lines
    from scfoundry.tasks.drug_response.lines import Lines

    check_return(copy=copy, return_fitted=return_fitted, caller=CALLER)
    _check_network(drug_encoder, max_epochs=max_epochs, pairs_per_step=pairs_per_step, checkpoint_dir=checkpoint_dir)
    if n_folds < 0 or n_folds == 1:
        msg = f"n_folds must be 0 or a whole number from 2; got {n_folds!r}. The usual choice: n_folds=5."
        raise ValueError(msg)
    adata, target = to_write(adata, modality, copy=copy, caller=CALLER)
    compute = Compute.resolve(device, precision, batch_size)
    fitted, loaded = _opened(model)
    structures = smiles_of(target, smiles)
    tables = further_tables(target, features)
    if fitted is None:
        if response is None:
            msg = (
                'There is nothing to learn from without responses: response="ln_ic50", the key of a table in '
                "adata.obsm."
            )
            raise ValueError(msg)
        measured, tissues = responses_of(target, response), tissues_of(target, tissue_key, split)
        require_lines(measured.notna())
        _require_structures(measured, smiles, target, structures)
    else:
        changed = {"split": split != "cold_cell", "drug_encoder": drug_encoder != "morgan"}
        changed["tissue_key"] = tissue_key is not None
        refuse_learning([name for name, value in changed.items() if value], caller=CALLER)
        measured, tissues = None if response is None else responses_of(target, response), None
        if lacking := [name for name in fitted.columns if name not in tables]:
            msg = (
                f"The model was fitted with tables that are not given, {quoted(lacking)}: "
                f"features={list(fitted.columns)!r}, keys of adata.obsm."
            )
            raise ValueError(msg)
    _require_parsed(structures)
    source = source_of(target, loaded, layer=layer, compute=compute, caller=CALLER)
    columns = {key: sorted(table.columns) for key, table in tables.items()} if fitted is None else fitted.columns
    genes = source.own_genes() if fitted is None else fitted.genes
    lines = Lines.read(source, genes, model=loaded, further=tables, columns=columns, compute=compute)

    found = fitted
    if found is None:
        from scfoundry.tasks.drug_response.drug_response import DrugResponse

        found = DrugResponse.fit(
            loaded,
            genes,
            lines,
            measured,
            smiles=structures,
            columns=columns,
            split=split,
            tissues=tissues,
            n_folds=n_folds,
            drug_encoder=drug_encoder,
            max_epochs=max_epochs,
            batch_size=pairs_per_step,
            checkpoint_dir=checkpoint_dir,
            seed=new_seed(rng),
            compute=compute,
        )
    predicted = found.predict(lines, response=measured, smiles=structures, own=fitted is None, compute=compute)
    if fitted is None:
        order = [drug for drug in measured.columns if drug in found.drugs]
        predicted = predicted[order + [drug for drug in predicted.columns if drug not in found.drugs]]

    params: dict[str, Any] = {
        "response": response if isinstance(response, str) else None,
        "split": split,
        "tissue_key": tissue_key,
    }
    params |= {"smiles": smiles if isinstance(smiles, str) else None, "features": list(features), "n_folds": n_folds}
    params |= {"drug_encoder": drug_encoder, "max_epochs": max_epochs, "pairs_per_step": pairs_per_step, "layer": layer}
    params |= {"precision": precision, "rng": rng}
    results = recorded(source, loaded, params) | {Keys.DRUGS: found.expected.reindex(predicted.columns)}
    if weights := found.block_weights:
        results[Keys.WEIGHTS] = weights
    slots = {f"obsm/{key_added}": predicted.astype(np.float32).set_axis(target.obs_names), f"uns/{key_added}": results}
    write_results(target, slots, units=Units.RESPONSE, caller=CALLER)
    return found if return_fitted else adata if copy else None


def alone(model: Any) -> bool:
    """Whether expression is read without a model."""
    return model is None or (isinstance(model, str) and model == ALONE)


def source_of(target: AnnData, model: Any, *, layer: str | None, compute: Any, caller: str) -> Source:
    """What is read of lines or cells, checked; said in the log."""
    from scfoundry.data.matrix.cells import Cells
    from scfoundry.tasks.drug_response.lines import Source

    if model is None:
        logger.info("%s: expression of %d lines or cells, without a model.", caller, target.n_obs)
        return Source.of(target, layer=layer, caller=caller)
    cells = Cells.of(target, model.genes, layer=layer, caller=caller)
    announce(model, compute, cells)
    return Source.read_by(cells)


def _opened(model: Any) -> tuple[DrugResponse | None, Any]:
    """What was fitted before, and the model; `None` for expression alone."""
    from scfoundry.tasks.drug_response.drug_response import DrugResponse

    return (None, None) if alone(model) else open_fitted(model, DrugResponse, caller=CALLER)


def _check_network(drug_encoder: str, **given: object) -> None:
    """Refuse what only the network reads."""
    if drug_encoder != "gin" and (names := [name for name, value in given.items() if value is not None]):
        msg = (
            f'{names[0]} is of the network\'s training, the closed form has none: leave it out, or drug_encoder="gin".'
        )
        raise ValueError(msg)


def _require_structures(measured: pd.DataFrame, smiles: Any, target: AnnData, structures: Mapping[str, str]) -> None:
    """Refuse drugs of which neither responses nor a structure are known."""
    named = target.uns[smiles] if isinstance(smiles, str) else smiles
    drugs = [] if named is None else [str(drug) for drug in getattr(named, "index", named)]
    unmeasured = measured.columns[measured.isna().all()].tolist()
    if lacking := [
        drug
        for drug in [*unmeasured, *drugs]
        if drug not in structures and drug not in measured.dropna(axis=1, how="all")
    ]:
        msg = (
            f"Of {quoted(dict.fromkeys(lacking), 5)} neither a response nor SMILES are given: nothing can be said. Add "
            f"smiles[{lacking[0]!r}] = ..., or drop the drug: response.drop(columns={lacking[0]!r})."
        )
        raise ValueError(msg)


def _require_parsed(structures: Mapping[str, str]) -> None:
    if structures:
        from scfoundry.data.molecules import read_molecules

        read_molecules(structures)


def recorded(source: Source, model: Any, params: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments, and where numbers come from."""
    read_with = {"model": ALONE} if model is None else model.provenance
    return {Keys.PARAMS: given(params), Keys.PROVENANCE: dict(read_with) | dict(source.provenance)}
