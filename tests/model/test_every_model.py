"""What holds for every model: weights in and out, and what plays no part in an embedding."""

from __future__ import annotations

import copy
import json
import pickle
import threading
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import anndata
import numpy as np
import pytest
import torch
from cases import MODELS, STORES, at_every_step, same, state_of, with_matrix
from safetensors.torch import load_file, save_file

import scfoundry as sf
from scfoundry._device import Compute
from scfoundry.nn.checkpoint import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable

    from anndata import AnnData

# Models with weights that can be saved.
PUBLISHED = ("cellplm", "cellplm_gmvae", "langcell", "cellnamer", "celler", "celllm", "scpalm")


@dataclass
class Case:
    """A model and cells that it has never seen."""

    name: str
    model: Any
    adata: AnnData

    def embed(self, adata: Any = None, model: Any = None, **how: Any) -> np.ndarray:
        adata = self.adata if adata is None else adata
        return (model or self.model).get_latent_representation(adata, **{"device": "cpu", "batch_key": "batch"} | how)

    @cached_property
    def expected(self) -> np.ndarray:
        return self.embed()


@pytest.fixture(scope="session", params=PUBLISHED)
def case(request, make_adata):
    genes = make_adata(n_vars=60).var_names
    return Case(request.param, MODELS[request.param](genes), make_adata(30, 50))


# ---- in a notebook -------------------------------------------------------------------------------------------------


def test_a_notebook_shows_a_table_in_which_texts_are_escaped(case):
    model = copy.copy(case.model)
    model.description_ = case.model.description_ | {"weights": "<script>mine</script>", "licence": "A & B"}
    root = ET.fromstring(model._repr_html_())  # noqa: S314
    shown = {row.find("th").text: row.find("td").text for row in root.iter("tr")}
    assert root.find("caption").text == type(model).__name__
    assert {tag.tag for tag in root.iter()} == {"table", "caption", "tbody", "tr", "th", "td"}
    assert shown["weights"] == "<script>mine</script>"
    assert shown["licence"] == "A & B"
    assert shown["genes"] == f"{len(model.genes)}"
    assert shown["parameters"] == f"{sum(p.numel() for p in model.module.parameters()):,}"
    assert shown["trained"] == "no, random weights"
    assert "sf.tl.embed" in shown["verbs"].split(", ")


def test_a_notebook_shows_what_shipped_weights_learned_from():
    model = sf.model.load_pretrained("celler-mini")
    shown = model._repr_html_()
    assert f"on {model.provenance['trained_on']}" in shown
    assert model.provenance["licence"] in shown


# ---- weights in and out --------------------------------------------------------------------------------------------


def is_the_same(case, loaded):
    same(state_of(loaded), state_of(case.model))
    assert type(loaded) is type(case.model)
    assert loaded.config == case.model.config
    assert loaded.genes == case.model.genes
    np.testing.assert_array_equal(case.embed(model=loaded), case.expected)


def test_copies_and_pickles_are_the_same_model(case):
    for twin in (copy.deepcopy(case.model), pickle.loads(pickle.dumps(case.model))):  # noqa: S301
        assert type(twin) is type(case.model)
        np.testing.assert_array_equal(case.embed(model=twin), case.expected)


def test_threads_of_one_process_may_share_a_model(case):
    found = []
    threads = [threading.Thread(target=lambda: found.append(case.embed())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert len(found) == 2
    for embedding in found:
        np.testing.assert_array_equal(embedding, case.expected)


def test_a_folder_gives_back_the_model_to_the_bit(case, tmp_path):
    case.model.save_pretrained(tmp_path / "mine", weights="mine", licence="MIT", trained_on="nothing")
    assert {path.name for path in (tmp_path / "mine").iterdir()} == {
        "README.md",
        "config.json",
        "genes.tsv",
        "model.safetensors",
    }
    loaded = type(case.model).from_pretrained(tmp_path / "mine")
    is_the_same(case, loaded)
    is_the_same(case, sf.model.load_pretrained(tmp_path / "mine"))
    loaded.save_pretrained(tmp_path / "again")
    first, second = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("mine", "again"))
    assert first == second


def test_half_the_size_is_written_and_read_as_it_was_rounded(case, tmp_path):
    case.model.save_pretrained(tmp_path, dtype=torch.float16)
    loaded = type(case.model).from_pretrained(tmp_path).module.state_dict()
    for name, tensor in case.model.module.state_dict().items():
        assert torch.equal(loaded[name], tensor.half().float() if tensor.is_floating_point() else tensor), name


@pytest.mark.filterwarnings("ignore")
def test_what_scvi_saves_it_loads_without_loss(case, tmp_path):
    case.model.save(tmp_path / "model")
    loaded = type(case.model).load(tmp_path / "model", adata=False, accelerator="cpu")
    is_the_same(case, loaded)
    assert loaded.provenance == case.model.provenance


def test_provenance_names_model_weights_paper_and_versions(case, tmp_path):
    fresh = case.model.provenance
    assert set(fresh) - {"objectives"} == {"model", "weights", "citation", "versions"}
    assert fresh["weights"] == "untrained"
    assert {"scfoundry", "torch", "scvi-tools", "anndata"} <= set(fresh["versions"])
    case.model.save_pretrained(tmp_path, weights="mine", licence="MIT", trained_on="nothing")
    loaded = type(case.model).from_pretrained(tmp_path).provenance
    told = {"weights": "mine", "licence": "MIT", "trained_on": "nothing", "sha256": loaded["sha256"]}
    assert loaded == fresh | told
    assert len(loaded["sha256"]) == 64


def rewritten(change: Callable[[dict], None]) -> Callable[[Any], None]:
    def damage(folder):
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors")

    return damage


def first_weight(tensors):
    return next(name for name, tensor in sorted(tensors.items()) if tensor.is_floating_point() and tensor.numel() > 1)


def truncated(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-40])


def config_cut_short(folder):
    (folder / "config.json").write_text('{"model": "cellplm", "conf')


def of_another_model(folder):
    saved = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(saved | {"model": "another"}))


def a_gene_less(folder):
    lines = (folder / "genes.tsv").read_text().splitlines()
    (folder / "genes.tsv").write_text("\n".join(lines[:-1]) + "\n")


DAMAGES = {
    "missing": (rewritten(lambda tensors: tensors.pop(first_weight(tensors))), r"does not fit \w+: 1 missing: \w+"),
    "extra": (
        rewritten(lambda tensors: tensors.update(extra=torch.zeros(2))),
        r"does not fit \w+: 1 unexpected: extra",
    ),
    "reshaped": (
        rewritten(lambda tensors: tensors.update({first_weight(tensors): torch.zeros(3, 5, 7)})),
        r"does not fit \w+: 1 of another shape: .* \(3, 5, 7\) instead of",
    ),
    "not a number": (
        rewritten(lambda tensors: tensors[first_weight(tensors)].fill_(torch.nan)),
        r"1 tensors hold NaN or infinite values: \w+",
    ),
    "truncated": (truncated, r"model.safetensors is damaged or incomplete .*Download or save it again"),
    "config cut short": (config_cut_short, r"config.json is damaged: .*Download it again, or save the model again"),
    "another model": (of_another_model, r"holds a 'another' model, not '\w+'. Load it with sf.model.load_pretrained\("),
    "a gene less": (a_gene_less, r"does not fit \w+: .*of another shape"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_weights_that_are_damaged_are_refused_before_anything_is_computed(case, tmp_path, damage):
    case.model.save_pretrained(tmp_path)
    change, message = DAMAGES[damage]
    change(tmp_path)
    with (
        at_every_step(case.model, lambda: pytest.fail("something was computed")),
        pytest.raises(CheckpointError, match=message),
    ):
        type(case.model).from_pretrained(tmp_path)


def test_weights_that_are_not_there_are_refused_by_saying_what_there_is(case, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No weights 'cellpml'.*the registry has .*cellplm-mini"):
        type(case.model).from_pretrained("cellpml")
    case.model.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"model.safetensors is missing: a model folder holds config.json, "):
        type(case.model).from_pretrained(tmp_path)


def test_a_configuration_survives_json_and_names_what_it_does_not_know(case, tmp_path):
    config = case.model.config
    assert type(config).from_dict(json.loads(json.dumps(asdict(config)))) == config
    with pytest.raises(ValueError, match=r"has no config value 'depth', 'n_hiden'; known: .*n_hidden"):
        type(case.model)(genes=case.model.genes, **asdict(config), n_hiden=3, depth=2)
    case.model.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    saved["config"]["n_hiden"] = 3
    (tmp_path / "config.json").write_text(json.dumps(saved))
    with pytest.raises(ValueError, match=r"has no config value 'n_hiden'; known: "):
        type(case.model).from_pretrained(tmp_path)


def test_a_model_needs_genes_or_data(case):
    with pytest.raises(ValueError, match=rf"{type(case.model).__name__}\(genes=\[...\]\), or .*setup_anndata\(adata\)"):
        type(case.model)()


def test_a_copy_shares_nothing_with_the_model_and_is_no_longer_its_weights(case, tmp_path):
    case.model.save_pretrained(tmp_path, weights="mine")
    model = type(case.model).from_pretrained(tmp_path)
    before, provenance = state_of(model), model.provenance
    copied = model.copy()
    same(state_of(copied), before)
    one, other = (
        {tensor.data_ptr() for tensor in m.module.state_dict().values() if tensor.numel()} for m in (model, copied)
    )
    assert not one & other
    with torch.no_grad():
        for parameter in copied.module.parameters():
            parameter.add_(1)
    same(state_of(model), before)
    assert model.provenance == provenance
    assert copied.provenance["weights"] == "mine, fine-tuned"
    assert "sha256" not in copied.provenance


def test_the_seed_of_new_weights_is_ones_own(case):
    build = type(case.model)
    config = asdict(case.model.config)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, again, other = (state_of(build(genes=case.model.genes, seed=seed, **config)) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    same(again, first)
    assert any((first[name] != other[name]).any() for name in first if name != "training")


# ---- embedding -----------------------------------------------------------------------------------------------------

CLOSE = {"atol": 1e-5, "rtol": 0}


def test_the_order_of_cells_and_genes_and_further_genes_play_no_part(case, make_adata):
    rng = np.random.default_rng(0)
    cells, genes = rng.permutation(30), rng.permutation(50)
    np.testing.assert_array_equal(case.embed(case.adata[:, genes].copy()), case.expected)
    np.testing.assert_allclose(case.embed(case.adata[cells, genes].copy()), case.expected[cells], **CLOSE)
    further = make_adata(30, 90)[:, 60:].copy()
    further.obs = case.adata.obs
    both = anndata.concat([case.adata, further], axis=1, merge="same")
    assert both.n_vars == 80
    np.testing.assert_array_equal(case.embed(both), case.expected)


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_the_number_of_cells_at_a_time_plays_no_part(case, batch_size):
    np.testing.assert_allclose(case.embed(batch_size=batch_size), case.expected, **CLOSE)


def test_the_type_of_the_matrix_plays_no_part(case, as_array):
    stored = with_matrix(case.adata, as_array(case.adata.X.toarray()))
    np.testing.assert_allclose(case.embed(stored), case.expected, **CLOSE)


@pytest.mark.parametrize("dtype", ["int32", "uint16", "float16", "float64"])
def test_the_type_of_the_numbers_plays_no_part(case, dtype):
    stored = with_matrix(case.adata, case.adata.X.toarray().astype(dtype))
    np.testing.assert_array_equal(case.embed(stored), case.expected)


@pytest.mark.parametrize("store", ["view", "backed", "zarr", "lazy"])
def test_where_the_cells_are_kept_plays_no_part(case, store, tmp_path):
    np.testing.assert_allclose(case.embed(STORES[store](case.adata, tmp_path)), case.expected, **CLOSE)


def test_a_layer_is_read_instead_of_the_matrix(case):
    adata = case.adata.copy()
    adata.layers["counts"], adata.X = adata.X, adata.X * 0
    np.testing.assert_array_equal(case.embed(adata, layer="counts"), case.expected)


def test_indices_choose_rows_of_the_whole(case):
    np.testing.assert_array_equal(case.embed(indices=[7, 3, 3]), case.expected[[7, 3, 3]])


def test_the_data_are_neither_registered_nor_changed(case):
    adata = case.adata.copy()
    case.embed(adata)
    assert (list(adata.obs), list(adata.obsm), list(adata.uns)) == (list(case.adata.obs), ["spatial"], [])


@pytest.mark.parametrize("by_itself", [False, True])
def test_training_and_inference_compute_alike_on_devices_that_only_emulate_bfloat16(monkeypatch, by_itself):
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or by_itself
    )
    for precision, half in {"auto": by_itself, "float32": False, "bfloat16": True}.items():
        compute = Compute(torch.device("cuda"), precision)
        assert compute.half == half
        assert compute.trainer_arguments()["precision"] == ("bf16-mixed" if half else "32-true")


def test_bfloat16_is_close(case):
    half = case.embed(precision="bfloat16")
    assert half.dtype == np.float32
    assert np.corrcoef(half.ravel(), case.expected.ravel())[0, 1] > 0.999


def test_a_cell_without_counts_has_a_finite_embedding(case):
    adata = case.adata.copy()
    adata.X[3] = 0
    adata.X.eliminate_zeros()
    assert np.isfinite(case.embed(adata)).all()


@pytest.mark.parametrize("device", ["cuda", "gpu"])
def test_a_device_that_does_not_exist_is_refused(case, device, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ValueError, match=rf"device='{device}'.*Use device=\"cpu\" or device=\"auto\""):
        case.embed(device=device)


def test_without_data_it_says_what_to_do(case):
    with pytest.raises(ValueError, match=r"loaded without data: pass it, get_latent_representation\(adata\)"):
        case.model.get_latent_representation()
