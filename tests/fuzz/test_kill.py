"""A training that is killed anywhere goes on from its last checkpoint: the same weights, and the same history."""

from __future__ import annotations

import pytest
from cases import same, state_of

import scfoundry as sf
from scfoundry.train.resuming import Resumable

SIZES = {"n_hidden": 16, "n_layers": 1, "n_heads": 4, "n_latent": 4, "n_decoder_hidden": 16, "max_cells": 20}
QUICK = {"max_epochs": 3, "accelerator": "cpu", "devices": 1, "enable_progress_bar": False}


class Killed(BaseException):
    """Ends a process where it stands: nothing catches it."""


def trained(adata, folder):
    sf.model.CellPLM.setup_anndata(adata, batch_key="batch")
    model = sf.model.CellPLM(adata, **SIZES)
    model.train(**QUICK, checkpoint_dir=folder)
    return model


def history(model):
    return {name: frame.iloc[:, 0].astype(float).tolist() for name, frame in model.history.items()}


@pytest.fixture(scope="module")
def complete(tmp_path_factory):
    """Folder of a complete training."""
    return tmp_path_factory.mktemp("whole")


@pytest.fixture(scope="module")
def uninterrupted(make_adata, complete):
    return trained(make_adata(60, 30), complete)


def cut(self, trainer, module):
    """The file of the new checkpoint is half written."""
    unfinished = self.path.with_suffix(".part")
    trainer.save_checkpoint(unfinished)
    unfinished.write_bytes(unfinished.read_bytes()[:1000])
    raise Killed


def written(self, trainer, module):
    """The new checkpoint is written, and not yet in its place."""
    trainer.save_checkpoint(self.path.with_suffix(".part"))
    raise Killed


def renamed(self, trainer, module, end=Resumable.on_train_epoch_end):
    """The new checkpoint is in its place, and the epoch not yet closed."""
    end(self, trainer, module)
    raise Killed


@pytest.mark.parametrize("epoch", [1, 3])
@pytest.mark.parametrize("strike", [cut, written, renamed])
def test_what_was_killed_resumes_to_the_bit_with_its_history(
    uninterrupted, make_adata, tmp_path, monkeypatch, strike, epoch
):
    plain, ended = Resumable.on_train_epoch_end, []

    def end(self, trainer, module):
        ended.append(module)
        (strike if len(ended) == epoch else plain)(self, trainer, module)

    monkeypatch.setattr(Resumable, "on_train_epoch_end", end)
    with pytest.raises(Killed):
        trained(make_adata(60, 30), tmp_path)
    monkeypatch.setattr(Resumable, "on_train_epoch_end", plain)
    resumed = trained(make_adata(60, 30), tmp_path)
    same(state_of(resumed), state_of(uninterrupted))
    assert history(resumed) == history(uninterrupted)
    assert all(len(values) == 3 for values in history(resumed).values())


def test_a_training_that_was_complete_repeats_nothing(uninterrupted, make_adata, tmp_path):
    model = trained(make_adata(60, 30), tmp_path)
    model.train(**QUICK, checkpoint_dir=tmp_path)
    assert history(model) == history(uninterrupted)


OTHERS = {
    "a loss": {"panel_sizes": (5, 10)},
    "batches": {"accumulate_grad_batches": 2},
    "gradients": {"gradient_clip_val": 0.5},
    "cells held out": {"validation_size": 0.4},
    "a rate": {"lr": 1e-3},
    "a rate of a part": {"part_lrs": {"embedder": 1e-5}},
    "precision": {"precision": "bf16-mixed"},
    "seed": {"seed": 1},
}


@pytest.mark.parametrize("other", OTHERS)
def test_the_checkpoint_of_a_training_with_another_argument_is_refused_by_its_name(
    uninterrupted, make_adata, complete, other
):
    adata = make_adata(60, 30)
    sf.model.CellPLM.setup_anndata(adata, batch_key="batch")
    model = sf.model.CellPLM(adata, **SIZES)
    ((name, value),) = OTHERS[other].items()
    with pytest.raises(ValueError, match=rf"checkpoint of another training: (.*; )?{name} [^;]*, not .*another folder"):
        model.train(**QUICK, **{name: value}, checkpoint_dir=complete)


def test_the_checkpoint_of_another_configuration_or_layer_is_refused(uninterrupted, make_adata, complete):
    adata = make_adata(60, 30)
    adata.layers["counts"] = adata.X
    masked = None, {"mask_genes": 0.5}, r"config mask_genes 0\.25, not 0\.5"
    for layer, config, what in (masked, ("counts", {}, "setup layer None, not 'counts'")):
        sf.model.CellPLM.setup_anndata(adata, batch_key="batch", layer=layer)
        model = sf.model.CellPLM(adata, **SIZES, **config)
        with pytest.raises(ValueError, match=f"checkpoint of another training: .*{what}"):
            model.train(**QUICK, checkpoint_dir=complete)


def test_the_checkpoint_of_a_model_with_another_seed_is_refused(uninterrupted, make_adata, complete):
    adata = make_adata(60, 30)
    sf.model.CellPLM.setup_anndata(adata, batch_key="batch")
    with pytest.raises(ValueError, match=r"another training: seed of the model 0, not 1\. To go on"):
        sf.model.CellPLM(adata, **SIZES, seed=1).train(**QUICK, checkpoint_dir=complete)


def test_the_checkpoint_of_other_initial_weights_or_of_another_model_is_refused(
    uninterrupted, make_adata, complete, tmp_path
):
    adata = make_adata(60, 30)
    sf.model.CellPLM.setup_anndata(adata, batch_key="batch")
    sf.model.CellPLM(adata, **SIZES).save_pretrained(tmp_path / "weights")
    with pytest.raises(ValueError, match=r"another training: .*initial weights None, not \w+\."):
        sf.model.CellPLM.from_pretrained(tmp_path / "weights", adata).train(**QUICK, checkpoint_dir=complete)
    sizes = {"n_hidden": 16, "n_layers": 1, "n_heads": 2, "n_intermediate": 16}
    sf.model.Celler.setup_anndata(adata)
    with pytest.raises(ValueError, match=r"another training: model CellPLM, not Celler\. To go on"):
        sf.model.Celler(adata, **sizes).train(**QUICK, checkpoint_dir=complete)


def test_a_training_that_diverged_says_so(make_adata):
    adata = make_adata(60, 30)
    sf.model.CellPLM.setup_anndata(adata, batch_key="batch")
    model = sf.model.CellPLM(adata, **SIZES)
    with pytest.raises(ValueError, match=r"training diverged: .*smaller lr than 1e\+30: train\(lr=1e\+29\)"):
        model.train(**QUICK, lr=1e30, warmup_steps=0)
    assert not model.is_trained_


@pytest.mark.parametrize("lr", [1e9, 1e30])
def test_a_step_that_stumbles_over_diverged_weights_says_that_they_diverged(make_adata, lr):
    """Weights may be infinite, or finite and their products not."""
    adata = make_adata(60, 30)
    adata.obs["text"] = "a cell."
    sf.model.LangCell.setup_anndata(adata, text_keys="text")
    sizes = {f"n{part}_{name}": 16 for part in ("", "_text") for name in ("hidden", "intermediate")}
    layers = {f"n{part}_{name}": 1 for part in ("", "_text") for name in ("layers", "heads")}
    model = sf.model.LangCell(adata, **sizes, **layers, n_latent=8, max_length=32)
    with pytest.raises(ValueError, match=r"training diverged: .*Start again with fresh weights"):
        model.train(**QUICK, batch_size=8, lr=lr, warmup_steps=0)
    assert not model.is_trained_
