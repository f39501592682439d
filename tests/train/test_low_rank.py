"""Training by matrices of low rank, `lora=True`: what learns, what stays, and what is left when it ends."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from cases import registered, weights
from safetensors.torch import load_file

from scfoundry.train.low_rank import SCALE

RANK = 2
HOW: dict[str, Any] = {"max_epochs": 2, "warmup_steps": 0, "accelerator": "cpu", "enable_progress_bar": False}
# Heads, by how their names begin.
HEADS = {
    "langcell": ("cell_projection", "text_projection", "match_head", "classifier"),
    "celler": ("decoder", "cell_decoder"),
    "celllm": ("level_head", "tumour_head", "contrast"),
    "cellplm": ("latent", "decoder"),
    "scpalm": ("quantiser", "decoder.head", "cell_decoder.decoder.head"),
}
# Filled from the data when training begins.
STARTED = ("embedding.", "decoder.means", "cell_decoder.decoder.means", "steps_since_redraw")


class Watch(pl.Callback):
    """What learns, and the matrices in the end."""

    def __init__(self) -> None:
        self.learning: set[str] = set()
        self.optimised: set[str] = set()
        self.matrices: dict[str, torch.Tensor] = {}

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        module = pl_module.module
        names = {parameter: name for name, parameter in module.named_parameters()}
        self.learning |= {name for parameter, name in names.items() if parameter.requires_grad}
        self.optimised |= {names[parameter] for parameter in trainer.optimizers[0].state}
        self.matrices |= {n: v.clone() for n, v in module.state_dict().items() if ".parametrizations." in n}


@pytest.fixture(params=HEADS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def test_attention_learns_by_low_rank_and_is_the_sum_in_the_end(name: str, tmp_path: Any) -> None:
    model, watch = registered(name), Watch()
    before = weights(model)
    learns = {name: parameter.requires_grad for name, parameter in model.module.named_parameters()}
    model.train(lora=RANK, lr=1e-2, callbacks=[watch], **HOW)
    after = weights(model)
    assert watch.optimised <= watch.learning
    assert all(".parametrizations.weight.0." in n or n.startswith(HEADS[name]) for n in watch.learning)
    assert {n: parameter.requires_grad for n, parameter in model.module.named_parameters()} == learns
    # Names are the old ones, and all that is no head and no adapted projection is as it was, to the last bit.
    assert after.keys() == before.keys()
    adapted = {n.split(".parametrizations.")[0] + ".weight" for n in watch.matrices}
    assert all(n.endswith(("query.weight", "value.weight")) for n in adapted)
    for n, value in before.items():
        if n not in adapted and not n.startswith((*HEADS[name], *STARTED)):
            assert torch.equal(after[n], value), n
    n_changed = 0
    for n in adapted:
        stem = n.removesuffix("weight") + "parametrizations.weight."
        a, b = watch.matrices[f"{stem}0.a"], watch.matrices[f"{stem}0.b"]
        assert a.shape[0] == b.shape[1] == RANK
        assert torch.equal(watch.matrices[f"{stem}original"], before[n])
        assert torch.equal(after[n], torch.addmm(before[n], b, a, alpha=SCALE))
        n_changed += not torch.equal(after[n], before[n])
    assert n_changed
    # What is saved is what other trainings save.
    model.save_pretrained(tmp_path)
    assert load_file(tmp_path / "model.safetensors").keys() == before.keys()
    latent = model.get_latent_representation(device="cpu")
    loaded = (
        type(model)
        .from_pretrained(tmp_path)
        .get_latent_representation(model.adata, batch_key=model.registry["setup_args"].get("batch_key"), device="cpu")
    )
    assert (latent == loaded).all()


def test_nothing_changes_where_nothing_is_learned(name: str) -> None:
    model = registered(name)
    before = weights(model)
    model.train(lora=True, lr=0.0, **HOW)
    for n, value in weights(model).items():
        if not n.startswith((*STARTED, "quantiser.")):
            assert torch.equal(value, before[n]), n


def test_an_interrupted_training_resumes_to_the_same_weights(tmp_path: Any) -> None:
    how: dict[str, Any] = HOW | {"lora": RANK, "lr": 1e-2, "schedule": "constant"}
    through, resumed = registered("celler"), registered("celler")
    through.train(**how)
    registered("celler").train(checkpoint_dir=tmp_path, **how | {"max_epochs": 1})
    resumed.train(checkpoint_dir=tmp_path, **how)
    for n, value in weights(through).items():
        assert torch.equal(value, weights(resumed)[n]), n
    with pytest.raises(ValueError, match="of another training: parameters"):
        registered("celler").train(checkpoint_dir=tmp_path, **how | {"lora": False})


def test_the_best_weights_are_kept_and_slow_copies_follow_the_sums() -> None:
    model = registered("langcell", queue_size=16)
    model.train(lora=True, lr=1e-2, **HOW)
    before = weights(model)
    model.train_classifier(model.adata, model.adata.obs["label"], lora=True, lr=1e-2, validation_size=0.3, **HOW_HEAD)
    after = weights(model)
    changed = {n for n, value in before.items() if not torch.equal(after[n], value)}
    assert changed
    assert all(n.startswith("cell.") and n.endswith(("query.weight", "value.weight")) for n in changed)


HOW_HEAD = {"max_epochs": 2, "accelerator": "cpu", "enable_progress_bar": False}


def test_a_model_without_attention_says_so() -> None:
    with pytest.raises(ValueError, match="none is to learn here"):
        registered("cellnamer").train(lora=True, **HOW)
    with pytest.raises(ValueError, match="rank of at least 1; got -1"):
        registered("celler").train(lora=-1, **HOW)
