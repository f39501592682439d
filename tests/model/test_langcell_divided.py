"""LangCell's contrast by divide and conquer: gradients of the whole batch, in the memory of a part of it."""

import numpy as np
import pytest
import torch
from cases import WORDS, disturb, equal, weights

import scfoundry as sf
from scfoundry.data.matrix.cells import Cells
from scfoundry.model.langcell import _divided
from scfoundry.model.langcell._divided import DividedPretraining
from scfoundry.model.langcell._momentum import Momentum
from scfoundry.model.langcell._pretraining import Pretraining, pair_logits
from scfoundry.model.langcell._training_data import CellTexts, TrainingCells

TINY = {
    "n_hidden": 16, "n_layers": 2, "n_heads": 2, "n_intermediate": 16, "n_text_hidden": 16, "n_text_layers": 2,
    "n_text_heads": 2, "n_text_intermediate": 16, "n_latent": 8, "max_length": 32, "dropout": 0.1, "text_dropout": 0.1,
    "text_vocabulary": tuple(WORDS),
}  # fmt: skip
QUICK = {"max_epochs": 2, "lr": 1e-3, "batch_size": 20, "warmup_steps": 2, "accelerator": "cpu"}
DIVIDED = {"contrast": "divide_and_conquer", "part_size": 6}
OBJECTIVES = ("masked_genes", "cell_cell", "cell_text", "matching")


@pytest.fixture
def adata(make_adata):
    """Cells of two types, each with two texts of its own and one that all share."""
    adata = make_adata(50, 60)
    kind = adata.obs["cell_type"].astype(str)
    adata.obs["text"] = "cell type: " + kind.str.lower() + "."
    adata.obs["other"] = np.where(adata.obs["batch"] == "batch 0", "a cell", "a " + kind.str.lower() + " lineage")
    return adata


def trainable(adata, *, text_keys=("text", "other"), seed=0, **config):
    sf.model.LangCell.setup_anndata(adata, text_keys=text_keys)
    return sf.model.LangCell(adata, seed=seed, **(TINY | config))


def data_of(model, adata):
    cells = TrainingCells(Cells.of(adata, model.genes, caller="test").reader, model.genes, model.config.max_length)
    return cells, CellTexts(adata.obs[["text", "other"]].astype(str).to_numpy(), model.tokenizer)


def gradients_of(loss, module, rows):
    """Losses of some cells, and their gradients, all random numbers being the same."""
    module.zero_grad()
    torch.manual_seed(0)
    losses = loss(rows, 0)
    losses["loss"].backward()
    found = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
    return {name: value.item() for name, value in losses.items()}, found


def divided_of(model, adata, part_size, *objectives):
    model.module.double().train()
    weighted = dict.fromkeys(OBJECTIVES, 0.0) | dict.fromkeys(objectives, 1.0)
    loss = DividedPretraining(model.module, *data_of(model, adata), weighted, part_size)
    return gradients_of(loss, model.module, np.arange(adata.n_obs))


def error(found, expected):
    assert found.keys() == expected.keys()
    ours, theirs = (torch.cat([gradients[name].flatten() for name in expected]) for gradients in (found, expected))
    return float((ours - theirs).norm() / theirs.norm())


def end_to_end(encode, parts, parameters):
    """Everything in memory, with the same random numbers."""
    return tuple(torch.cat(output) for output in zip(*map(encode, parts), strict=True))


@pytest.mark.parametrize("objectives", [["cell_text"], ["cell_cell"], ["masked_genes"], ["matching"], OBJECTIVES])
def test_gradients_are_those_of_end_to_end_training(adata, monkeypatch, objectives):
    """Relative error in double precision, with dropout, and a last part that is smaller."""
    model = trainable(adata)
    losses, found = divided_of(model, adata, 7, *objectives)
    monkeypatch.setattr(_divided, "encode_in_parts", end_to_end)
    expected_losses, expected = divided_of(model, adata, 7, *objectives)
    assert losses == pytest.approx(expected_losses, rel=1e-12)
    assert error(found, expected) <= 1e-6


@pytest.mark.parametrize("part_size", [1, 7, 50, None])
def test_without_dropout_losses_and_gradients_are_those_of_the_batch_in_memory(adata, part_size):
    """The other way of training, which knows of no parts, with no queue."""
    model = trainable(adata, dropout=0.0, text_dropout=0.0)
    losses, found = divided_of(model, adata, part_size, "cell_text", "cell_cell", "matching")
    cells, texts = data_of(model, adata)
    momentum = Momentum(model.module, ["cell"], n_columns=2)
    weighted = dict.fromkeys(OBJECTIVES, 1.0) | {"masked_genes": 0.0}
    whole = Pretraining(model.module, momentum, cells, texts, weighted)
    expected_losses, expected = gradients_of(whole, model.module, np.arange(adata.n_obs))
    assert losses == pytest.approx(expected_losses, rel=1e-6)
    assert error(found, expected) <= 1e-6


def test_only_a_part_of_the_batch_is_encoded_with_gradients(adata, monkeypatch):
    model = trainable(adata)
    sizes = []
    read = model.module.cell.forward

    def watched(tokens, present=None, **how):
        if torch.is_grad_enabled():
            sizes.append(len(tokens))
        return read(tokens, present, **how)

    monkeypatch.setattr(model.module.cell, "forward", watched)
    divided_of(model, adata, 7, *OBJECTIVES)
    assert max(sizes) <= 7


def test_layers_that_look_at_cells_are_computed_again(adata):
    """Of keys and values of every pair nothing is kept, and the gradients are the same."""
    model = trainable(adata)
    module, (cells, texts) = model.module.train(), data_of(model, adata)
    batch, words = cells.batch(np.arange(8), module.device), texts.draw(np.arange(8), module.device).words
    cell_of, text_of = torch.arange(8).repeat(3), torch.arange(24) % len(words.rows)
    results, kept = [], []
    for again in (False, True):
        module.gradient_checkpointing_enable(again)
        module.zero_grad()
        torch.manual_seed(0)
        states = module.cell(batch.tokens, batch.present)
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.numel()) or x, lambda x: x):  # noqa: B023
            pair_logits(module, batch, states, words, cell_of, text_of).square().sum().backward()
        kept.append(sum(sizes))
        results.append({name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None})
    assert kept[1] < kept[0] / 4
    for name, expected in results[0].items():
        torch.testing.assert_close(results[1][name], expected, rtol=0, atol=0)


@pytest.mark.parametrize("stage", [1, 2])
def test_interrupted_training_resumes_to_the_same_weights(adata, tmp_path, stage):
    through, interrupted, resumed = (trainable(adata) for _ in range(3))
    disturb(resumed)
    how = QUICK | DIVIDED | {"schedule": "constant", "stage": stage}
    through.train(**how | {"max_epochs": 4})
    interrupted.train(**how, checkpoint_dir=tmp_path)
    resumed.train(**how | {"max_epochs": 4}, checkpoint_dir=tmp_path)
    assert equal(weights(through), weights(resumed))


def test_training_lowers_the_losses_and_keeps_no_queue(adata):
    model = trainable(adata, queue_size=64)
    model.train(**QUICK | DIVIDED | {"max_epochs": 12, "lr": 5e-3, "validation_size": 0.2})
    for name in ("masked_genes", "cell_text", "matching"):
        values = model.history[f"{name}_train"].to_numpy(dtype=float).ravel()
        assert values[-1] < values[0], name
        assert f"{name}_validation" in model.history


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"contrast": "queue"}, "contrast must be one of 'momentum', 'divide_and_conquer'; got 'queue'"),
        (
            {"part_size": 4},
            r"contrast='momentum' holds in memory at once: train\(contrast=\"divide_and_conquer\", part",
        ),
        (DIVIDED | {"part_size": 0}, "part_size must be at least 1 cell; got 0"),
        (DIVIDED | {"batch_size": 1}, r"a batch of 1 has none: train\(contrast=.*batch_size=512"),
    ],
)
def test_what_cannot_be_divided_says_how_it_can(adata, how, message):
    with pytest.raises(ValueError, match=message):
        trainable(adata).train(**QUICK | how)
