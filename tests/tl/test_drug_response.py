"""What users give and get: tables by name, new lines and drugs, transfer to cells, and what is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import scfoundry as sf

if TYPE_CHECKING:
    from pathlib import Path

GENES = ["CD3E", "CD3D", "MS4A1", "LYZ", "NKG7", "GNLY", "CD8A", "CD4", "BRAF", "EGFR", "MITF", "ERBB2"]
SMILES = {f"drug{i}": "C" * (i + 1) + "O" for i in range(6)}


@pytest.fixture
def lines() -> AnnData:
    """Standardised expression of 40 lines; every drug follows one gene."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(40, len(GENES)))
    obs = pd.DataFrame({"tissue": [f"tissue{i % 4}" for i in range(40)]}, index=[f"line{i:02d}" for i in range(40)])
    adata = AnnData(values.astype(np.float32), obs=obs, var=pd.DataFrame(index=GENES))
    response = values[:, [0, 0, 0, 1, 1, 1]] + np.arange(6) + 0.2 * rng.normal(size=(40, 6))
    adata.obsm["ln_ic50"] = pd.DataFrame(response, index=adata.obs_names, columns=list(SMILES))
    adata.uns["smiles"] = dict(SMILES)
    return adata


def fitted(lines: AnnData, **how: Any) -> Any:
    return sf.tl.drug_response(lines, **{"response": "ln_ic50", "n_folds": 0, "return_fitted": True} | how)


def test_hidden_lines_are_predicted_from_standardised_expression(lines: AnnData) -> None:
    response = lines.obsm["ln_ic50"]
    split = sf.pp.split_drug_response(response, test=0.25, valid=0)
    sf.tl.drug_response(lines, response=response.where(split.train), smiles="smiles")
    scores = sf.metrics.drug_response(response.where(split.test), lines.obsm["drug_response"])
    assert scores.loc["predicted", "pearson_per_drug"] > 0.6
    table = lines.uns["drug_response"]["drugs"]
    assert (table["n_lines"] == 30).all()
    assert table["expected_pearson"].mean() > 0.5
    assert lines.uns["drug_response"]["provenance"]["model"] == "expression"
    assert lines.uns["drug_response"]["params"]["smiles"] == "smiles"


def test_tables_are_found_by_name(lines: AnnData) -> None:
    expected = lines.copy()
    fitted(expected)
    given = lines.obsm["ln_ic50"].iloc[::-1, ::-1]
    more = pd.concat([given, given.iloc[:1].set_axis(["elsewhere"])])
    fitted(lines, response=more)
    pd.testing.assert_frame_equal(lines.obsm["drug_response"][list(SMILES)], expected.obsm["drug_response"])


def test_what_was_learned_is_read_of_other_lines_with_fewer_genes(lines: AnnData, tmp_path: Path) -> None:
    fitted(lines[:30].copy(), smiles="smiles").save(tmp_path)
    new = lines[30:, :8].copy()
    sf.tl.drug_response(new, model=tmp_path, smiles={"new": "CCCCCCCCO"})
    found = new.obsm["drug_response"]
    assert list(found) == [*SMILES, "new"]
    assert np.corrcoef(found["drug0"], new.obsm["ln_ic50"]["drug0"])[0, 1] > 0.6
    assert np.isnan(new.uns["drug_response"]["drugs"].loc["new", "n_lines"])


def test_further_tables_say_more(lines: AnnData) -> None:
    mutated = np.arange(40) % 2
    lines.obsm["mutations"] = pd.DataFrame({"BRAF": mutated, "NRAS": mutated[::-1]}, index=lines.obs_names)
    response = lines.obsm["ln_ic50"].add(3 * mutated, axis=0)
    hidden = response.copy()
    hidden.iloc[30:] = np.nan
    errors = []
    for features in ((), ("mutations",)):
        sf.tl.drug_response(lines, response=hidden, features=features, n_folds=0)
        errors.append(np.square(lines.obsm["drug_response"] - response)[30:].to_numpy().mean())
    assert errors[1] < 0.3 * errors[0]
    assert set(lines.uns["drug_response"]["weights"]) == {"expression", "mutations"}


def test_bulk_lines_tell_which_cells_are_sensitive(lines: AnnData) -> None:
    bulk = fitted(lines)
    rng = np.random.default_rng(1)
    counts = rng.poisson(5, size=(60, len(GENES)))
    counts[:30, 0] += 20
    cells = AnnData(counts.astype(np.float32), var=pd.DataFrame(index=GENES))
    sf.tl.drug_sensitivity(cells, bulk=bulk, drug="drug0")
    # A high value of the first gene means a high IC50.
    assert cells.obs["drug_sensitivity"][:30].max() < cells.obs["drug_sensitivity"][30:].median()


def test_a_few_labelled_cells_suffice_for_what_is_plain(lines: AnnData) -> None:
    lines.X[:20] += 2
    lines.obs["response"] = ["yes"] * 20 + ["no"] * 20
    sf.tl.drug_sensitivity(lines, response_key="response", positive="yes", n_shots=0.2)
    found = lines.obs["drug_sensitivity"]
    assert found[:20].min() > found[20:].max()
    assert lines.uns["drug_sensitivity"]["n_learned"] == {"sensitive": 4, "resistant": 4}


def test_the_only_learned_cell_of_a_label_has_no_probability(lines: AnnData) -> None:
    lines.X[:20] += 2
    lines.obs["response"] = ["yes"] * 20 + ["no"] * 20
    sf.tl.drug_sensitivity(lines, response_key="response", positive="yes", n_shots=1)
    found = lines.obs["drug_sensitivity"]
    assert found.isna().sum() == 2
    assert found[:20].min() > found[20:].max()


def two(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(drug1=table["drug1"].where(np.arange(len(table)) < 2))


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({"response": None}, r"nothing to learn from without responses"),
    "no slot": ({"response": "ic50"}, r"no 'ic50'; it has 'ln_ic50'"),
    "all missing": ({"response": lambda t: t * np.nan}, r"at least 3 lines and 2 drugs|neither a response"),
    "two lines": ({"response": two}, r"1 drugs are measured in fewer than 3 lines, for example 'drug1'"),
    "line twice": ({"response": lambda t: pd.concat([t, t[:1]])}, r"The line 'line00' occurs twice"),
    "drug twice": ({"response": lambda t: pd.concat([t, t[["drug0"]]], axis=1)}, r"The drug 'drug0' occurs twice"),
    "infinite": ({"response": lambda t: t.replace(t.iloc[0, 0], np.inf)}, r"infinite values"),
    "text": ({"response": lambda t: t.astype(object).replace(t.iloc[0, 0], "high")}, r"no numbers"),
    "strange lines": ({"response": lambda t: t.add_prefix("x", axis=0)}, r"None of the 40 lines .*set_axis"),
    "smiles": ({"smiles": {"drug0": "C1CC"}}, r"'C1CC' of 'drug0'"),
    "no structure": ({"smiles": {"new": ""}}, r"Of 'new' neither a response nor SMILES"),
    "two structures": ({"smiles": pd.Series(["C", "CC"], index=["a", "a"])}, r"'a' has two SMILES"),
    "gin": ({"drug_encoder": "gin", "smiles": {"drug0": "CC"}}, r"5 have no SMILES, for example 'drug1'"),
    "tissue": ({"split": "cold_tissue"}, r'tissue_key="tissue"'),
    "encoder": ({"drug_encoder": "ecfp"}, r"one of 'morgan', 'gin'"),
    "epochs": ({"max_epochs": 3}, r"of the network's training"),
    "folds": ({"n_folds": 1}, r"n_folds must be 0 or"),
    "table": ({"features": ["mutations"]}, r"no 'mutations'"),
    "few": ({"smiles": {"new": "CCO"}}, r"at least 5 others with SMILES"),
}


@pytest.mark.parametrize("bad", BAD)
def test_bad_input_is_refused_with_the_way_out_and_nothing_is_written(lines: AnnData, bad: str) -> None:
    arguments, message = BAD[bad]
    given = {k: v(lines.obsm["ln_ic50"]) if callable(v) else v for k, v in arguments.items()}
    with pytest.raises(ValueError, match=message):
        sf.tl.drug_response(lines, **{"response": "ln_ic50", "n_folds": 0} | given)
    assert "drug_response" not in lines.obsm


def test_lines_without_genes_and_missing_values_are_refused(lines: AnnData) -> None:
    lines.X[3] = 0
    with pytest.raises(ValueError, match=r"1 lines or cells have no expression, for example 'line03'"):
        fitted(lines)
    lines.X[3] = np.nan
    with pytest.raises(ValueError, match="12 missing or infinite values"):
        fitted(lines)


def test_a_salt_is_read_by_its_largest_part_and_a_metal_stays(lines: AnnData) -> None:
    known = fitted(lines, smiles="smiles")
    new = {"acid": "CCCCC(=O)[O-]", "salt": "CCCCC(=O)[O-].[Na+]", "metal": "N.N.[Cl-].[Cl-].[Pt+2]"}
    sf.tl.drug_response(lines, model=known, smiles=new)
    found = lines.obsm["drug_response"]
    np.testing.assert_array_equal(found["acid"], found["salt"])
    assert np.isfinite(found["metal"]).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "Give labels of cells"),
        ({"response_key": "tissue", "positive": "tissue0"}, "4 labels.*two are needed"),
        ({"response_key": "none", "positive": "yes"}, "no column 'none'"),
        ({"response_key": "half"}, "positive must be one of 'no', 'yes'; got None"),
        ({"response_key": "half", "positive": "yes", "n_shots": 0}, "n_shots must be"),
        ({"response_key": "one", "positive": "yes"}, "1 labels"),
        ({"bulk": "fitted", "drug": "aspirin"}, "got 'aspirin', it knows 'drug0'"),
        ({"bulk": "fitted", "drug": "drug0", "n_shots": 3}, "n_shots is of learning from labels"),
        ({"bulk": "fitted", "drug": "drug0", "model": "cellplm"}, "leave model out"),
    ],
)
def test_sensitivity_is_refused_where_it_says_nothing(lines: AnnData, arguments: dict, message: str) -> None:
    lines.obs["half"], lines.obs["one"] = ["yes", "no"] * 20, "yes"
    given = arguments | ({"bulk": fitted(lines.copy())} if "bulk" in arguments else {})
    with pytest.raises(ValueError, match=message):
        sf.tl.drug_sensitivity(lines, **given)
    assert "drug_sensitivity" not in lines.obs


def test_the_plot_shows_the_correlation_within_drugs(lines: AnnData) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    fitted(lines, n_folds=3)
    left, right = sf.pl.drug_response(lines, "ln_ic50")
    drawn = right.get_lines()[-1].get_ydata()
    expected = [np.corrcoef(lines.obsm["drug_response"][d], lines.obsm["ln_ic50"][d])[0, 1] for d in SMILES]
    np.testing.assert_allclose(drawn, sorted(expected, reverse=True), atol=1e-6)
    assert "240 pairs" in left.get_title()
    with pytest.raises(ValueError, match="no result 'other'"):
        sf.pl.drug_response(lines, "ln_ic50", key="other")
