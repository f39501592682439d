"""Configurations: what stands in JSON comes back the same, and what no model knows is refused by name."""

import json

import pytest

import scfoundry as sf
from scfoundry.model.cellnamer._module import ScorerConfig

CONFIGS = [
    sf.model.CellPLMConfig(latent="gmvae", n_clusters=4),
    sf.model.LangCellConfig(text_vocabulary=("[PAD]", "cell"), n_layers=2),
    ScorerConfig(types=("CL:0000236",), profiles=("CL:0000236",), n_members=3),
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config).__name__)
def test_json_and_back(config):
    assert type(config).from_dict(json.loads(json.dumps(config.as_dict()))) == config


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config).__name__)
def test_unknown_values_are_named(config):
    with pytest.raises(ValueError, match=r"has no config value 'depth', 'n_hiden'; known: .*n_hidden"):
        type(config).from_dict({"n_hiden": 3, "depth": 2})


def test_the_cell_encoder_decides_the_kind():
    assert isinstance(sf.model.LangCellConfig.from_dict({"cell_encoder": "expression_mlp"}), ScorerConfig)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: sf.model.CellPLMConfig(latent="flow"), "CellPLM config: latent must be one of 'gmvae', 'vae', 'ae'"),
        (lambda: sf.model.CellPLMConfig(n_hidden=30), "n_hidden=30 must be divisible by n_heads"),
        (lambda: sf.model.LangCellConfig(mixture="both"), "LangCell config: mixture must be one of 'released'"),
        (lambda: sf.model.LangCellConfig(n_text_hidden=30), "n_text_hidden=30 and n_text_heads=8"),
    ],
)
def test_impossible_choices_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
