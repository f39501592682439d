"""LangCell computes what the released code computed: every array of the fixtures, from the official files."""

import json
import shutil

import anndata as ad
import numpy as np
import pytest
import torch
from torch.nn import functional as F

import scfoundry as sf
from scfoundry._device import Compute
from scfoundry.data.labels import Label
from scfoundry.data.matrix.cells import Cells
from scfoundry.model.langcell._checkpoint import from_released, to_released
from scfoundry.model.langcell._matching import mix
from scfoundry.model.langcell._module import ClassificationHead
from scfoundry.nn.checkpoint import read_torch_file

ALPHAS = ["0.0", "0.1", "0.2", "0.5", "1.0"]


@pytest.fixture(scope="module")
def folder(parity_folder, tmp_path_factory):
    """The official layout in one folder: checkpoint, dictionaries and tokenizer side by side."""
    source, merged = parity_folder("langcell"), tmp_path_factory.mktemp("langcell")
    for path in [*(source / "ckpt").iterdir(), source / "geneformer", source / "text_tokenizer"]:
        copy = shutil.copytree if path.is_dir() else shutil.copyfile
        copy(path, merged / path.name)
    return merged


@pytest.fixture(scope="module")
def model(folder):
    return sf.model.LangCell.from_pretrained(folder)


@pytest.fixture(scope="module")
def expected(parity_folder):
    return dict(np.load(parity_folder("langcell") / "expected.npz"))


@pytest.fixture(scope="module")
def adata(parity_folder):
    return ad.read_h5ad(parity_folder("langcell") / "counts.h5ad")


@pytest.fixture(scope="module")
def texts(parity_folder):
    return [entry["text"] for entry in json.loads((parity_folder("langcell") / "texts.json").read_text())]


def masked(expected, prefix=""):
    return (torch.from_numpy(expected[f"{prefix}{name}"]) for name in ("input_ids", "attention_mask"))


def paired(expected, n_cells, n_texts):
    """Every cell beside every text: texts repeated per cell."""
    words, words_present = masked(expected, "text_")
    return words.long().repeat(n_cells, 1), words_present.bool().repeat(n_cells, 1)


@pytest.fixture(scope="module")
def states(model, expected):
    tokens, present = masked(expected)
    with torch.no_grad():
        return model.module.cell(tokens.long(), present.bool())


def test_cell_states_and_embeddings(model, expected, states):
    present = expected["attention_mask"].astype(bool)
    np.testing.assert_allclose(states[present], expected["cell_last_hidden_state"][present], atol=1e-4)
    np.testing.assert_allclose(model.module.project_cells(states).detach(), expected["cell_embedding"], atol=1e-5)


def test_word_pieces(model, expected, texts):
    words, present = masked(expected, "text_")
    pieces = model.tokenizer(texts)
    assert pieces.lengths.tolist() == present.sum(1).tolist()
    assert pieces.tokens.tolist() == words[present.bool()].tolist()


def test_text_states_and_embeddings(model, expected):
    words, present = masked(expected, "text_")
    with torch.no_grad():
        text_states = model.module.text(words.long(), present.bool())
        embedding = model.module.embed_texts(words.long(), present.bool())
    np.testing.assert_allclose(text_states[:, 0], expected["text_cls_hidden"], atol=1e-4)
    np.testing.assert_allclose(embedding, expected["text_embedding"], atol=1e-5)


def test_matching_of_every_pair(model, expected, states):
    n_cells, n_texts = expected["ctm_match_prob"].shape
    words, words_present = masked(expected, "text_")
    _, present = masked(expected)
    with torch.no_grad():
        begun = model.module.text.begin(words.long(), words_present.bool())
        logits = torch.stack(
            [
                model.module.match_logits(
                    begun, words_present.bool(), model.module.text.look_at(states[i : i + 1]), present[i : i + 1].bool()
                )
                for i in range(n_cells)
            ]
        )
    assert logits.shape == (n_cells, n_texts, 2)
    np.testing.assert_allclose(logits, expected["ctm_raw_logits"], atol=1e-4)
    np.testing.assert_allclose(logits.softmax(-1)[..., 1], expected["ctm_match_prob"], atol=1e-5)


def test_paired_cells_and_texts_match_as_one_by_one(model, expected, states):
    n = min(expected["ctm_match_prob"].shape)
    words, words_present = (x[:n] for x in masked(expected, "text_"))
    _, present = masked(expected)
    with torch.no_grad():
        begun = model.module.text.begin(words.long(), words_present.bool())
        answers = model.module.text.look_at(states[:n])
        logits = model.module.match_logits(begun, words_present.bool(), answers, present[:n].bool())
    np.testing.assert_allclose(logits, expected["ctm_raw_logits"][np.arange(n), np.arange(n)], atol=1e-4)


def test_similarity_and_both_softmaxes(model, expected):
    similarity = torch.from_numpy(expected["cell_embedding"] @ expected["text_embedding"].T)
    scaled = similarity / model.config.temperature
    np.testing.assert_allclose(scaled, expected["sim_over_temperature"], atol=2e-4)
    np.testing.assert_allclose(scaled.softmax(1), expected["sim_softmax"], atol=1e-5)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_zero_shot_mixture(model, expected, alpha):
    similarity = torch.from_numpy(expected["sim_over_temperature"] * model.config.temperature)
    odds = torch.from_numpy(expected["ctm_match_prob"]).logit()
    mixed = mix(
        similarity, odds, temperature=model.config.temperature, alpha=float(alpha), mixture=model.config.mixture
    )
    np.testing.assert_allclose(mixed, expected[f"zero_shot_alpha_{alpha}"], atol=1e-5)


@pytest.fixture(scope="module")
def untied(parity_folder):
    """Cells without equal values, whose order the released tokenizer leaves to chance and we to the vocabulary."""
    rank = np.load(parity_folder("langcell") / "rank_encoding.npz")
    return [i for i, n in enumerate(rank["length"]) if len(np.unique(rank["tie_group"][i, :n])) == n]


@pytest.mark.parametrize("alpha", ALPHAS)
def test_from_counts_and_texts_to_probabilities(model, expected, adata, texts, alpha, untied):
    cells = Cells.of(adata, model.genes, caller="test")
    labels = [Label(text, (text,)) for text in texts]
    result = model.copy(alpha=float(alpha)).score_texts(cells, labels, Compute.resolve("cpu"))
    np.testing.assert_allclose(result.probabilities[untied], expected[f"zero_shot_alpha_{alpha}"][untied], atol=1e-5)
    if alpha == "1.0":
        assert result.matching is None
    else:
        np.testing.assert_allclose(result.matching[untied], expected["ctm_match_prob"][untied], atol=1e-5)
    agree = result.probabilities.argmax(1) == expected[f"zero_shot_alpha_{alpha}"].argmax(1)
    assert agree[untied].all()


def test_embeddings_from_counts(model, expected, adata, texts, untied):
    np.testing.assert_allclose(
        model.get_latent_representation(adata)[untied], expected["cell_embedding"][untied], atol=1e-5
    )
    np.testing.assert_allclose(model.embed_texts(texts), expected["text_embedding"], atol=1e-5)


def test_classification_head(parity_folder, model, expected, states):
    saved = read_torch_file(parity_folder("langcell") / "ce_head.bin")
    head = ClassificationHead(states.shape[-1], len(saved["classifier.bias"]), 0.0).eval()
    names = {"pooler": "bert.pooler.dense", "output": "classifier"}
    head.load_state_dict(
        {f"{ours}.{x}": saved[f"{theirs}.{x}"] for ours, theirs in names.items() for x in ("weight", "bias")}
    )
    np.testing.assert_allclose(head(states).detach(), expected["ce_logits"], atol=1e-4)


def test_released_names_go_both_ways(model, folder):
    files = to_released(model.module)
    back = from_released(files, model.module, source="test")
    for name, tensor in model.module.state_dict().items():
        torch.testing.assert_close(back[name], tensor, rtol=0, atol=0)
    assert F.normalize(back["cell_projection.weight"]).isfinite().all()
