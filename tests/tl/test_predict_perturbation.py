"""Unseen perturbations from measured ones: what is learned, what is refused, and that cells to predict are not read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

import scfoundry as sf

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

KEYS: dict[str, Any] = {"perturbation_key": "guide", "control": "ctrl", "device": "cpu"}
TINY = {"n_hidden": 32, "n_layers": 1, "n_latent": 6, "n_decoder_hidden": 16, "n_bottleneck": 8}
N_CELLS = 60
# A symbol of the vocabulary, one that make_adata's forty genes leave out, and one that no model here knows.
MEASURED, NOT_MEASURED, NOT_KNOWN = "ENSG00000000938", "ENSG00000102265", "KLF1"


@pytest.fixture(scope="module")
def model(make_adata: Callable[..., AnnData]) -> sf.model.CellPLM:
    return sf.model.CellPLM(genes=make_adata(n_vars=60).var_names, **TINY)


def draw(expected: np.ndarray, rng: np.random.Generator, n: int = N_CELLS) -> np.ndarray:
    return rng.poisson(np.tile(expected, (n, 1)))


@pytest.fixture(scope="module")
def screen(make_adata: Callable[..., AnnData]) -> AnnData:
    """Controls, four genes that act on genes of their own, and two pairs of them; effects of a pair multiply."""
    rng = np.random.default_rng(0)
    genes = make_adata(n_vars=40).var_names
    base = rng.lognormal(2, 0.5, 40)
    effect = {name: np.ones(40) for name in genes[:4]}
    for i, factors in enumerate(effect.values()):
        factors[5 * i + 4 : 5 * i + 9] = (4.0, 0.25, 3.0, 0.3, 2.0)
    a, b, c, d = genes[:4]
    guides = ["ctrl", a, b, c, d, f"{a}+{b}", f"{c}+{d}"]
    counts, labels = [], []
    for guide in guides:
        factor = np.prod([effect[part] for part in guide.split("+") if part in effect], axis=0)
        counts.append(draw(base * factor, rng))
        labels += [guide] * N_CELLS
    return AnnData(
        sparse.csr_matrix(np.vstack(counts).astype(np.float32)),
        obs=pd.DataFrame({"guide": pd.Categorical(labels)}, index=[f"cell {i}" for i in range(len(labels))]),
        var=pd.DataFrame(index=genes),
    )


@pytest.fixture(scope="module")
def stimulated(make_adata: Callable[..., AnnData]) -> AnnData:
    """Seven cell types with profiles of their own, one stimulus that raises the same genes in all."""
    rng = np.random.default_rng(1)
    genes = make_adata(n_vars=40).var_names
    counts, rows = [], []
    factor = np.ones(40)
    factor[:6] = 5.0
    for i in range(7):
        base = rng.lognormal(2, 0.7, 40)
        for condition in ("ctrl", "ifn"):
            counts.append(draw(base * (factor if condition == "ifn" else 1), rng, 30))
            rows += [(condition, f"type {i}")] * 30
    obs = pd.DataFrame(rows, columns=["guide", "cell_type"], index=[f"cell {i}" for i in range(len(rows))])
    return AnnData(np.vstack(counts).astype(np.float32), obs=obs, var=pd.DataFrame(index=genes))


def test_cells_without_counts_are_warned_of_once(model: sf.model.CellPLM, screen: AnnData, logged: list[str]) -> None:
    adata = screen.copy()
    empty = np.isin(np.arange(adata.n_obs), [0, N_CELLS])
    adata.X = sparse.csr_matrix(adata.X.toarray() * ~empty[:, None])
    sf.tl.predict_perturbation(adata, **KEYS, perturbations=[MEASURED], model=model)
    [warning] = [message for message in logged if "have no counts" in message]
    assert warning.startswith("sf.tl.predict_perturbation: 2 of 420 cells")


def changes(adata: AnnData, key: str = "perturbation") -> pd.DataFrame:
    return adata.uns[key]["profiles"].to_df("change")


def measured_change(adata: AnnData, name: str) -> np.ndarray:
    counts = adata.X.toarray() if sparse.issparse(adata.X) else adata.X
    log = np.log1p(1e4 * counts / counts.sum(1, keepdims=True))
    guides = adata.obs["guide"].to_numpy()
    return log[guides == name].mean(0) - log[guides == "ctrl"].mean(0)


def test_profiles_and_a_table_of_what_changes_most(model: sf.model.CellPLM, screen: AnnData) -> None:
    adata = screen.copy()
    pair = screen.obs["guide"].cat.categories[1]
    sf.tl.predict_perturbation(adata, **KEYS, perturbations=[pair, "KLF1"], model=model, n_genes=7)
    result = adata.uns["perturbation"]
    profiles = result["profiles"]
    assert profiles.obs_names.tolist() == [pair, "KLF1"]
    assert profiles.var_names.equals(adata.var_names)
    np.testing.assert_allclose(profiles.X, profiles.layers["control"] + profiles.layers["change"], atol=1e-5)
    assert profiles.obs["n_unseen"].tolist() == [0, 1]
    assert profiles.uns["n_conditions"] == 5
    table = result["differential_expression"]
    assert table.groupby("perturbation", observed=True).size().to_dict() == {pair: 7, "KLF1": 7}
    first = table[table["perturbation"] == pair]
    assert (np.diff(np.abs(first["change"])) <= 0).all()
    assert result["params"]["perturbations"] == [pair, "KLF1"]


def test_an_unseen_pair_is_predicted_from_its_genes(model: sf.model.CellPLM, screen: AnnData) -> None:
    a, b = screen.var_names[:2]
    adata = screen.copy()
    sf.tl.predict_perturbation(adata, **KEYS, perturbations=f"{b}+{a}", model=model)
    predicted, measured = changes(adata).iloc[0], measured_change(screen, f"{a}+{b}")
    assert np.corrcoef(predicted, measured)[0, 1] > 0.9
    # As large as what was measured, too, not only in the same direction.
    assert np.polyfit(predicted, measured, 1)[0] == pytest.approx(1, abs=0.25)


def test_a_gene_by_another_name_does_not_learn_from_its_own_cells(model: sf.model.CellPLM, screen: AnnData) -> None:
    a, b = screen.var_names[:2]
    table = sf.datasets.human_genes()
    symbol = {gene: table.loc[gene, "symbol"] for gene in (a, b)}
    pair = (screen.obs["guide"] == f"{a}+{b}").to_numpy()
    expected = changes(sf.tl.predict_perturbation(screen, **KEYS, perturbations=f"{a}+{b}", model=model, copy=True))
    without = screen[~pair].copy()
    for asked in (f"{symbol[a]}+{b}", f"{symbol[b].lower()}+{a}", f"{a}.3+{symbol[b]}"):
        for adata in (screen.copy(), without.copy()):
            sf.tl.predict_perturbation(adata, **KEYS, perturbations=asked, model=model)
            assert adata.uns["perturbation"]["profiles"].obs_names.tolist() == [asked]
            np.testing.assert_allclose(changes(adata), expected, atol=1e-6)
    mixed = screen.copy()
    mixed.obs["guide"] = mixed.obs["guide"].astype(str)
    mixed.obs.loc[np.arange(mixed.n_obs) % 2 == 0, "guide"] = (
        mixed.obs["guide"].str.replace(a, symbol[a]).str.replace(b, symbol[b])
    )
    sf.tl.predict_perturbation(mixed, **KEYS, perturbations=f"{a}+{b}", model=model)
    np.testing.assert_allclose(changes(mixed), expected, atol=1e-6)


def test_controls_of_two_guides_are_controls(model: sf.model.CellPLM, screen: AnnData) -> None:
    pair = "+".join(screen.var_names[:2])
    expected = changes(sf.tl.predict_perturbation(screen, **KEYS, perturbations=pair, model=model, copy=True))
    adata = screen.copy()
    adata.obs["guide"] = adata.obs["guide"].astype(str)
    first = np.flatnonzero(adata.obs["guide"] == "ctrl")[::2]
    adata.obs.iloc[first, 0] = "ctrl+ctrl"
    sf.tl.predict_perturbation(adata, **KEYS, perturbations=pair, model=model)
    pd.testing.assert_frame_equal(changes(adata), expected)
    with pytest.raises(ValueError, match="the control 'ctrl' among them"):
        sf.tl.predict_perturbation(adata, **KEYS, perturbations="ctrl+ctrl", model=model)


def test_a_gene_seen_in_a_pair_only_is_told_apart_from_its_partner(model: sf.model.CellPLM, screen: AnnData) -> None:
    c, d = screen.var_names[2:4]
    adata = screen.copy()
    sf.tl.predict_perturbation(adata, **KEYS, perturbations=d, model=model)
    predicted = changes(adata).iloc[0].to_numpy()
    assert np.corrcoef(predicted, measured_change(screen, d))[0, 1] > 0.8
    assert abs(np.corrcoef(predicted, measured_change(screen, c))[0, 1]) < 0.3


def test_cells_that_are_to_be_predicted_are_never_read(model: sf.model.CellPLM, screen: AnnData) -> None:
    a, b = screen.var_names[:2]
    changed = screen.copy()
    hidden = (changed.obs["guide"] == f"{a}+{b}").to_numpy()
    changed.X = sparse.csr_matrix(np.where(hidden[:, None], np.float32(99), changed.X.toarray()))
    absent = screen[~hidden].copy()
    found = []
    for adata in (screen.copy(), changed, absent):
        sf.tl.predict_perturbation(adata, **KEYS, perturbations=f"{a}+{b}", model=model)
        found.append(changes(adata))
    pd.testing.assert_frame_equal(found[0], found[1])
    pd.testing.assert_frame_equal(found[0], found[2])


def test_a_stimulus_is_learned_in_other_groups(model: sf.model.CellPLM, stimulated: AnnData) -> None:
    adata = stimulated.copy()
    hidden = ((adata.obs["cell_type"] == "type 3") & (adata.obs["guide"] == "ifn")).to_numpy()
    truth = measured_change(stimulated[stimulated.obs["cell_type"] == "type 3"], "ifn")
    asked = {"perturbations": "ifn", "group_key": "cell_type", "groups": "type 3", "model": model}
    sf.tl.predict_perturbation(adata, **KEYS, **asked)
    assert np.corrcoef(changes(adata).iloc[0], truth)[0, 1] > 0.9
    assert adata.uns["perturbation"]["profiles"].obs["group"].tolist() == ["type 3"]
    without = stimulated[~hidden].copy()
    sf.tl.predict_perturbation(without, **KEYS, **asked)
    pd.testing.assert_frame_equal(changes(without), changes(adata))


def test_profiles_never_fall_below_no_expression(model: sf.model.CellPLM, stimulated: AnnData) -> None:
    adata = stimulated.copy()
    lower = np.where(adata.obs["guide"] == "ifn", 0.0, 1.0)
    adata.X[:, 30:] *= lower[:, None].astype(np.float32)
    adata.X[(adata.obs["cell_type"] == "type 3").to_numpy(), 30:] = 0
    asked = {"perturbations": "ifn", "group_key": "cell_type", "groups": "type 3", "model": model}
    sf.tl.predict_perturbation(adata, **KEYS, **asked)
    assert (adata.uns["perturbation"]["profiles"].X >= 0).all()


def test_what_nobody_has_seen_perturbed_is_said_and_does_not_change(
    model: sf.model.CellPLM, stimulated: AnnData, logged: list[str]
) -> None:
    adata = stimulated.copy()
    asked = {"group_key": "cell_type", "groups": "type 3", "model": model}
    sf.tl.predict_perturbation(adata, **KEYS, **asked, perturbations=["KLF1", "ifn"])
    profiles = adata.uns["perturbation"]["profiles"]
    assert profiles.obs["n_unseen"].tolist() == [1, 0]
    assert any("1 perturbation with a gene that no cell shows perturbed ('KLF1')" in line for line in logged)
    assert (profiles.layers["change"][0] == 0).all()
    assert set(adata.uns["perturbation"]["differential_expression"]["perturbation"]) == {"ifn"}


def test_groups_without_controls_are_left_out_with_a_word(
    model: sf.model.CellPLM, stimulated: AnnData, logged: list[str]
) -> None:
    kept = ~((stimulated.obs["cell_type"] == "type 6") & (stimulated.obs["guide"] == "ctrl"))
    adata = stimulated[kept.to_numpy()].copy()
    asked = {"perturbations": "ifn", "group_key": "cell_type", "model": model}
    sf.tl.predict_perturbation(adata, **KEYS, **asked, groups="type 3")
    assert any("30 perturbed cells are left out, as their group ('type 6') has no controls" in line for line in logged)
    with pytest.raises(ValueError, match="'type 6' has no control cells"):
        sf.tl.predict_perturbation(adata, **KEYS, **asked, groups="type 6")


def test_fine_tuning_predicts_measured_and_unmeasured_genes_and_seeds_repeat(
    model: sf.model.CellPLM, screen: AnnData
) -> None:
    asked = {"perturbations": [MEASURED, NOT_MEASURED], "model": model, "fine_tune": True, "max_epochs": 2}
    before = {name: value.clone() for name, value in model.module.state_dict().items()}
    found = [changes(sf.tl.predict_perturbation(screen, **KEYS, **asked, rng=seed, copy=True)) for seed in (0, 0, 1)]
    pd.testing.assert_frame_equal(found[0], found[1])
    assert not np.allclose(found[0], found[2])
    assert (found[0].loc[MEASURED] != found[0].loc[NOT_MEASURED]).any()
    assert all((value == before[name]).all() for name, value in model.module.state_dict().items())


class TestBadInputIsRefusedBeforeAnythingIsComputed:
    @pytest.fixture(autouse=True)
    def nothing_is_computed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def computed(*args: object, **kwargs: object) -> None:
            pytest.fail("something was computed")

        monkeypatch.setattr("scfoundry.tasks.perturbation.responses.measure_responses", computed)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"perturbation_key": "gene"}, "no column 'gene'; its columns: 'guide'.*as perturbation_key"),
            ({"control": "NT"}, "No cell is 'NT' in adata.obs.*control="),
            ({"perturbations": "KLF11111"}, "'KLF11111': neither seen perturbed .* nor a human gene"),
            ({"perturbations": f"{MEASURED}+stim"}, "'stim': neither seen perturbed"),
            ({"perturbations": "KLF1", "fine_tune": True}, "'KLF1': no gene of the model.*fine_tune=False"),
            ({"perturbations": []}, r"perturbations must name what to predict, as text; got \[\]"),
            ({"perturbations": None}, "perturbations must be text or a list .*; got None"),
            ({"perturbations": ["KLF1", 1]}, "perturbations must be text or a list .*; got .*KLF1"),
            ({"sep": ""}, "sep must be the text between the genes of a combination; got ''"),
            ({"value": float("nan")}, "value must be a finite number.*got nan"),
            ({"value": float("inf")}, "value must be a finite number.*got inf"),
            ({"value": "x"}, "value must be a finite number.*got 'x'"),
            ({"n_genes": 2.5}, "n_genes must be a whole number.*got 2.5"),
            ({"max_epochs": 5}, "max_epochs=5 is of fine-tuning: fine_tune=True"),
            ({"perturbations": ["KLF1", "ctrl"]}, "the control 'ctrl' among them"),
            ({"groups": "B"}, "groups='B' need the column that names them"),
            ({"group_key": "type"}, "no column 'type'.*as group_key"),
            ({"max_epochs": 0, "fine_tune": True}, "max_epochs must be at least 1; got 0"),
            ({"n_genes": 0}, "n_genes must be at least 1"),
        ],
    )
    def test_arguments(self, model: sf.model.CellPLM, screen: AnnData, arguments: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            sf.tl.predict_perturbation(screen, **(KEYS | {"perturbations": "KLF1", "model": model} | arguments))

    def test_nothing_left_to_learn_from(self, model: sf.model.CellPLM, screen: AnnData, stimulated: AnnData) -> None:
        everything = [name for name in screen.obs["guide"].cat.categories if name != "ctrl"]
        with pytest.raises(ValueError, match=r"Nothing is left to learn from.*groups=\[\"B\"\]"):
            sf.tl.predict_perturbation(screen, **KEYS, perturbations=everything, model=model)
        with pytest.raises(ValueError, match="Nothing is left to learn from"):
            sf.tl.predict_perturbation(stimulated, **KEYS, perturbations="ifn", group_key="cell_type", model=model)
        only_controls = screen[screen.obs["guide"] == "ctrl"].copy()
        with pytest.raises(ValueError, match="All cells are 'ctrl'"):
            sf.tl.predict_perturbation(only_controls, **KEYS, perturbations="KLF1", model=model)

    def test_fine_tuning_of_a_model_that_has_none(
        self, reads_texts: sf.model.LangCell, small_model: Any, screen: AnnData
    ) -> None:
        for other in (reads_texts, small_model):
            with pytest.raises(ValueError, match=r'no published training on perturbations.*model="cellplm"'):
                sf.tl.predict_perturbation(screen, **KEYS, perturbations=MEASURED, model=other, fine_tune=True)

    def test_two_results_and_names_that_are_not_given(self, model: sf.model.CellPLM, screen: AnnData) -> None:
        asked = {"perturbations": MEASURED, "model": model}
        with pytest.raises(ValueError, match=r"a copy of adata or the fitted object, not both"):
            sf.tl.predict_perturbation(screen, **KEYS, **asked, copy=True, return_fitted=True)
        with pytest.raises(ValueError, match=r'Which cells are perturbed\?.*perturbation_key="guide", control="ctrl"'):
            sf.tl.predict_perturbation(screen, **asked, control="ctrl")


class TestWhatWasLearnedBefore:
    @pytest.fixture(scope="class")
    def adata(self, screen: AnnData) -> AnnData:
        return screen.copy()

    @pytest.fixture(scope="class", params=[False, True], ids=["default", "fine_tune"])
    def fitted(self, request: pytest.FixtureRequest, model: sf.model.CellPLM, adata: AnnData) -> sf.tasks.Responses:
        how = {"fine_tune": True, "max_epochs": 1} if request.param else {}
        asked = {"perturbations": [MEASURED, NOT_MEASURED], "model": model}
        fitted = sf.tl.predict_perturbation(adata, **KEYS, **asked, **how, return_fitted=True)
        assert isinstance(fitted, sf.tasks.Responses)
        assert list(adata.uns) == ["perturbation"]
        return fitted

    def test_it_predicts_the_same_from_memory_and_from_a_folder(
        self, fitted: sf.tasks.Responses, adata: AnnData, tmp_path: Path
    ) -> None:
        fitted.save(tmp_path)
        expected = adata.uns["perturbation"]
        for source in (fitted, tmp_path, str(tmp_path)):
            again = adata.copy()
            del again.uns["perturbation"]
            names = [MEASURED, NOT_MEASURED]
            assert sf.tl.predict_perturbation(again, perturbations=names, model=source, device="cpu") is None
            found = again.uns["perturbation"]
            np.testing.assert_array_equal(found["profiles"].X, expected["profiles"].X)
            pd.testing.assert_frame_equal(found["differential_expression"], expected["differential_expression"])
            unlike = {"rng", "max_epochs"}
            assert found["params"] == {k: v for k, v in expected["params"].items() if k not in unlike}
            assert found["provenance"]["replacement"] == expected["provenance"]["replacement"]

    def test_controls_alone_are_enough_whatever_they_are_called(
        self, fitted: sf.tasks.Responses, adata: AnnData
    ) -> None:
        controls = adata[(adata.obs["guide"] == "ctrl").to_numpy()].copy()
        controls.obs["kind"] = "untouched"
        keys = {"perturbation_key": "kind", "control": "untouched"}
        sf.tl.predict_perturbation(controls, perturbations=[MEASURED], model=fitted, device="cpu", **keys)
        found, expected = (one.uns["perturbation"]["profiles"] for one in (controls, adata))
        np.testing.assert_allclose(found[MEASURED].X, expected[MEASURED].X, atol=1e-5)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"value": -1.0}, r"value=-1.0 is of learning.*leave it out.*model=\"cellplm\", value=-1.0"),
            ({"fine_tune": True}, "fine_tune=True is of learning"),
            ({"sep": "_"}, "sep='_' is of learning"),
            ({"perturbation_key": "other"}, "no column 'other'"),
            ({"perturbations": "KLF11111"}, "'KLF11111': "),
        ],
    )
    def test_arguments_of_learning_are_refused(
        self, fitted: sf.tasks.Responses, adata: AnnData, arguments: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            sf.tl.predict_perturbation(adata, **({"perturbations": MEASURED, "model": fitted} | arguments))

    def test_genes_that_it_learned_in_must_not_lack(self, fitted: sf.tasks.Responses, adata: AnnData) -> None:
        few = adata[:, :30].copy()
        few.uns = {}
        with pytest.raises(ValueError, match=r"adata lacks 10 of the 40 genes.*return_fitted=True"):
            sf.tl.predict_perturbation(few, perturbations=MEASURED, model=fitted, device="cpu")
        assert not few.uns


@pytest.mark.parametrize("which", ["reads_texts", "small_model"])
def test_models_that_cannot_be_shown_a_replaced_gene_predict_too(
    request: pytest.FixtureRequest, screen: AnnData, which: str
) -> None:
    adata, other = screen.copy(), request.getfixturevalue(which)
    a, b = screen.var_names[:2]
    sf.tl.predict_perturbation(adata, **KEYS, perturbations=[f"{a}+{b}", "KLF1"], model=other)
    assert np.corrcoef(changes(adata).iloc[0], measured_change(screen, f"{a}+{b}"))[0, 1] > 0.9
    provenance = adata.uns["perturbation"]["provenance"]
    assert provenance["replacement"] == "counts of 0"
    assert provenance["model"] == other.provenance["model"]


def test_how_a_gene_was_replaced_stands_in_the_record(model: sf.model.CellPLM, screen: AnnData) -> None:
    adata = screen.copy()
    sf.tl.predict_perturbation(adata, **KEYS, perturbations="KLF1", model=model, value=-5)
    assert adata.uns["perturbation"]["provenance"]["replacement"] == "log expression of -5"


def test_mouse_data_are_read_through_orthologs(model: sf.model.CellPLM, screen: AnnData) -> None:
    genes = sf.datasets.human_genes()
    mouse = genes.loc[screen.var_names, "mouse_symbol"].to_numpy()
    known = mouse != ""
    adata = screen[:, known].copy()
    adata.var_names = mouse[known]
    a, b = screen.var_names[:2]
    sf.tl.predict_perturbation(adata, **KEYS, perturbations=f"{a}+{b}", model=model)
    assert np.corrcoef(changes(adata).iloc[0], measured_change(adata, f"{a}+{b}"))[0, 1] > 0.9
