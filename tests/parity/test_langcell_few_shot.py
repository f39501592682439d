"""Few-shot fine-tuning computes what the released code computed: both losses, step by step, dropout off."""

import json
import shutil

import anndata as ad
import numpy as np
import pytest
import torch

import scfoundry as sf


@pytest.fixture
def model(parity_folder, tmp_path):
    source = parity_folder("langcell")
    for path in [*(source / "ckpt").iterdir(), source / "geneformer", source / "text_tokenizer"]:
        copy = shutil.copytree if path.is_dir() else shutil.copyfile
        copy(path, tmp_path / path.name)
    return sf.model.LangCell.from_pretrained(tmp_path, dropout=0.0, text_dropout=0.0)


@pytest.fixture
def task(parity_folder):
    """The cells, a label each, and the texts of the labels."""
    folder = parity_folder("langcell")
    texts = {entry["name"]: entry["text"] for entry in json.loads((folder / "texts.json").read_text())}
    expected = np.load(folder / "expected.npz")
    adata = ad.read_h5ad(folder / "counts.h5ad")[expected["fewshot_cells"]].copy()
    return adata, np.array(list(texts))[expected["fewshot_labels"]], texts


def tune(model, task, **kwargs):
    adata, labels, texts = task
    model.fine_tune_texts(adata, labels, texts, lr=1e-3, batch_size=6, max_epochs=4, accelerator="cpu", **kwargs)
    return {name: values.iloc[:, 0].to_numpy(float) for name, values in model.history.items()}


def test_losses_of_four_steps(parity_folder, model, task):
    expected = np.load(parity_folder("langcell") / "expected.npz")
    history = tune(model, task)
    for ours, theirs in {"similarity": "sim", "matching": "ctm"}.items():
        losses = history[f"{ours}_train"]
        np.testing.assert_allclose(losses[0], expected[f"fewshot_loss_{theirs}"][0], atol=1e-4)
        np.testing.assert_allclose(losses, expected[f"fewshot_loss_{theirs}"], rtol=2e-2)


@pytest.mark.parametrize(
    ("how", "moved"),
    [
        ({}, {"cell", "text", "cell_projection", "text_projection"}),
        ({"train": "head"}, {"cell_projection", "text_projection"}),
        ({"train": "head", "losses": "corrected"}, {"cell_projection", "text_projection", "match_head"}),
    ],
)
def test_what_learns_and_what_is_frozen(model, task, how, moved):
    before = {name: tensor.clone() for name, tensor in model.module.state_dict().items()}
    tune(model, task, **how)
    after = model.module.state_dict()
    assert {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])} == moved
    assert all(parameter.requires_grad for parameter in model.module.parameters())
