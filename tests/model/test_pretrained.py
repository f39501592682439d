"""Weights in and out: folders of ours, official files, the registry, downloads."""

import json
import shutil
from pathlib import Path

import pytest
import torch

import scfoundry as sf
from scfoundry.model import _pretrained
from scfoundry.model._verbs import verbs_of
from scfoundry.model.cellplm._checkpoint import from_released, to_released
from scfoundry.nn.checkpoint import CheckpointError

OFFICIAL = Path(__file__).parents[1] / "data" / "parity" / "cellplm"


def state(model):
    return model.module.state_dict()


def test_config_values_can_be_changed_on_loading(tiny_model, tmp_path):
    tiny_model(latent="gmvae").save_pretrained(tmp_path)
    assert sf.model.CellPLM.from_pretrained(tmp_path, latent_embedding="gumbel").config.latent_embedding == "gumbel"


# ---- official files ------------------------------------------------------------------------------------------------


@pytest.fixture
def release(tmp_path, latent):
    folder = tmp_path / "release"
    shutil.copytree(OFFICIAL / latent, folder)
    return folder


def rewrite(folder, change):
    path = next(folder.glob("*.best.ckpt"))
    content = torch.load(path, weights_only=True)
    change(content["model_state_dict"])
    torch.save(content, path)


def test_released_names_map_both_ways(release):
    model = sf.model.CellPLM.from_pretrained(release)
    released = torch.load(next(release.glob("*.best.ckpt")), weights_only=True)["model_state_dict"]
    back = to_released(model.module)
    assert set(released) - set(back) == {
        "embedder.norm0.weight",
        "embedder.norm0.bias",
        "embedder.pe_enc.pe_enc.weight",
    }
    for name, tensor in back.items():
        assert torch.equal(tensor, released[name]), name
    ours = from_released(back, model.module, source="memory")
    assert all(torch.equal(ours[name], tensor) for name, tensor in state(model).items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("pre_latent_norm.norm.weight"), "1 missing: norm.weight"),
        (lambda s: s.update(extra=torch.zeros(1)), "1 unexpected: extra"),
        (
            lambda s: s.update({"decoder.out_layer.dec_disp": torch.zeros(3)}),
            r"1 of another shape: decoder.log_dispersion \(3,\) instead of \(60,\)",
        ),
    ],
)
def test_every_tensor_is_accounted_for(release, change, message):
    rewrite(release, change)
    with pytest.raises(CheckpointError, match=message):
        sf.model.CellPLM.from_pretrained(release)


def test_a_truncated_release_is_refused(release):
    path = next(release.glob("*.best.ckpt"))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(CheckpointError, match="could not be read as a torch file of tensors"):
        sf.model.CellPLM.from_pretrained(release)


class Payload:
    def __reduce__(self):
        return (print, ("unpickled!",))


def test_pickled_objects_are_never_loaded(release, capsys):
    torch.save({"model_state_dict": {}, "other": Payload()}, next(release.glob("*.best.ckpt")))
    with pytest.raises(CheckpointError, match="not loaded for safety"):
        sf.model.CellPLM.from_pretrained(release)
    assert "unpickled!" not in capsys.readouterr().out


def test_another_structure_is_refused(release):
    path = next(release.glob("*.config.json"))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"enc_mod": "performer"}))
    with pytest.raises(CheckpointError, match="enc_mod='performer'"):
        sf.model.CellPLM.from_pretrained(release)


def test_version_chooses(tmp_path):
    for name in ("gmvae", "vae"):
        shutil.copytree(OFFICIAL / name, tmp_path, dirs_exist_ok=True)
    with pytest.raises(ValueError, match=r"several versions: tiny_gmvae, tiny_vae. Choose one: version="):
        sf.model.CellPLM.from_pretrained(tmp_path)
    assert sf.model.CellPLM.from_pretrained(tmp_path, version="tiny_vae").config.latent == "vae"
    with pytest.raises(FileNotFoundError, match=r"no 20990101_85M.config.json .* it has \['tiny_gmvae', 'tiny_vae'\]"):
        sf.model.CellPLM.from_pretrained(tmp_path, version="20990101_85M")


def test_an_empty_folder_says_what_belongs_in_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"<version>.config.json with <version>.best.ckpt beside it"):
        sf.model.CellPLM.from_pretrained(tmp_path)


# ---- registry ------------------------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(sf.settings, "cache_dir", tmp_path / "cache")
    return tmp_path / "cache"


def test_the_registry_is_a_table(cache):
    table = sf.model.list_pretrained()
    assert {"model", "parameters", "megabytes", "licence", "source", "citation", "trained_on"} <= set(table.columns)
    assert table.loc["cellplm-mini", "source"] == "shipped"
    assert table.loc["cellplm-mini", "available"]
    assert table.loc["cellplm-20230926-85m", "parameters"] == 82_402_543
    assert not table.loc["cellplm-20230926-85m", "available"]
    assert table.notna().all(axis=None)


def test_the_table_says_which_verbs_weights_serve():
    verbs = sf.model.list_pretrained()["verbs"].str.split(", ")
    for weights in _pretrained.DEFAULTS.values():
        assert verbs[weights] == verbs_of(sf.model.load_pretrained(weights)), weights
    assert verbs["cellplm-20231027-85m"] == verbs_of(sf.model.CellPLM.from_pretrained(OFFICIAL / "vae"))
    scgpt = OFFICIAL.parent / "celler" / "pretrained"
    assert verbs["scgpt-whole-human"] == verbs_of(sf.model.Celler.from_pretrained(scgpt))
    assert "discriminate_tumour" in verbs["celllm-mini"]
    assert "discriminate_tumour" not in verbs["celllm-50m"]


def test_the_shipped_weights_are_what_the_registry_says():
    row = sf.model.list_pretrained().loc["cellplm-mini"]
    model = sf.model.load_pretrained("cellplm")
    assert sum(p.numel() for p in model.module.parameters()) == row["parameters"]
    folder = _pretrained.locate("cellplm-mini")
    size = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
    assert size == pytest.approx(row["megabytes"], abs=0.05)
    assert size <= 16
    assert {"MT-CO1", "IGHG1", "TRAC", "GAPDH"} <= set(model.genes.symbols)
    assert model.provenance["trained_on"] == row["trained_on"]


def test_manual_downloads_say_where_and_what(cache):
    with pytest.raises(FileNotFoundError, match=r"dropbox.com.*20230926_85M.best.ckpt.*place them in .*cellplm-2023"):
        sf.model.load_pretrained("cellplm-20230926-85m")


def test_manually_placed_files_are_found(cache):
    folder = cache / "cellplm-20231027-85m"
    folder.mkdir(parents=True)
    for suffix in ("config.json", "best.ckpt"):
        shutil.copy(OFFICIAL / "vae" / f"tiny_vae.{suffix}", folder / f"20231027_85M.{suffix}")
    assert sf.model.load_pretrained("cellplm-20231027-85m").config.latent == "vae"
