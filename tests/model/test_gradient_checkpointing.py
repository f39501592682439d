"""Activations that are computed again leave gradients as they are, and take less memory until then."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cases import MODELS, registered
from scipy import sparse

from scfoundry.model._capabilities import Tunable, can

GENES = [f"ENSG{number:011d}" for number in range(60)]


@pytest.fixture(params=[name for name in MODELS if name != "small"])
def model(request):
    model = MODELS[request.param](GENES)
    layers = any(hasattr(layer, "gradient_checkpointing") for layer in model.module.modules())
    if not can(model, Tunable) or not layers:
        pytest.skip(f"{request.param} is not trained through its embedding, or has no layers of attention")
    model.module.train()
    for part in model.module.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.3
    return model


def gradients(model, batch):
    """Gradients of a loss by parameter, and bytes that were kept for them."""
    kept = {}

    def keep(tensor):
        kept[tensor.data_ptr()] = tensor  # held, so that no other takes its place
        return tensor

    model.module.zero_grad()
    torch.manual_seed(0)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model.module.embed(batch).pow(3).sum()
    loss.backward()
    found = {name: p.grad.clone() for name, p in model.module.named_parameters() if p.grad is not None}
    return found, sum(tensor.nbytes for tensor in kept.values())


def test_gradients_are_the_same_with_dropout_and_less_is_kept(model):
    counts = sparse.csr_matrix(np.random.default_rng(0).poisson(2.0, (40, len(GENES))).astype(np.float32))
    batch = model.batch(counts)
    expected, much = gradients(model, batch)
    model.module.gradient_checkpointing_enable()
    found, less = gradients(model, batch)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=0, atol=0, msg=name)
    assert less <= much  # the same where the parts of a batch are computed again anyhow
    model.module.gradient_checkpointing_enable(False)
    assert gradients(model, batch)[1] == much


@pytest.mark.parametrize("name", ["cellplm", "langcell", "celler", "celllm", "scpalm"])
def test_training_learns_the_same_with_layers_computed_again(name):
    how = {"max_epochs": 1, "lr": 1e-3, "accelerator": "cpu", "enable_progress_bar": False}
    kept, again = registered(name), registered(name)
    kept.train(**how)
    again.train(gradient_checkpointing=True, **how)
    for key, value in kept.module.state_dict().items():
        torch.testing.assert_close(again.module.state_dict()[key], value, rtol=0, atol=0, msg=key)
    assert not any(getattr(layer, "gradient_checkpointing", False) for layer in again.module.modules())


def test_a_model_without_layers_of_attention_says_so():
    with pytest.raises(ValueError, match="this model has none"):
        registered("cellnamer").train(max_epochs=1, accelerator="cpu", gradient_checkpointing=True)
