"""Configurations: what stands in JSON comes back the same, and what no model knows is refused by name."""

import pytest

import scfoundry as sf

CONFIGS = [
    sf.model.CellPLMConfig(latent="gmvae", n_clusters=4),
    sf.model.LangCellConfig(text_vocabulary=("[PAD]", "cell"), n_layers=2),
    sf.model.CellerConfig(mask_ratio=(0.25, 0.5), n_classes=2, classes=("B cell", "NK"), class_counts=(3, 5)),
    sf.model.CellNamerConfig(types=("CL:0000236",), markers={"CL:0000236": ["CD79A"]}, n_members=3),
]


def test_one_class_is_one_model():
    with pytest.raises(ValueError, match="LangCell has no config value 'cell_encoder'"):
        sf.model.LangCellConfig.from_dict({"cell_encoder": "expression_mlp"})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: sf.model.CellPLMConfig(latent="flow"), "CellPLM config: latent must be one of 'gmvae', 'vae', 'ae'"),
        (lambda: sf.model.CellPLMConfig(n_hidden=30), "n_hidden=30 must be divisible by n_heads"),
        (lambda: sf.model.LangCellConfig(mixture="both"), "LangCell config: mixture must be one of 'released'"),
        (lambda: sf.model.LangCellConfig(n_text_hidden=30), "n_text_hidden=30 and n_text_heads=8"),
        (lambda: sf.model.LangCellConfig(alpha=1.2), r"alpha .* lies between 0 and 1; got 1.2.*alpha=0.2"),
        (lambda: sf.model.LangCellConfig(match_top_k=-1), "match_top_k must be at least 1, or 0 for all texts; got -1"),
    ],
)
def test_impossible_choices_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
