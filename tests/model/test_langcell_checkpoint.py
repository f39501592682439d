"""Official LangCell folders: complete ones load wherever they are named, damaged and foreign ones say what is wrong."""

import json
import shutil
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import torch

import scfoundry as sf
from scfoundry.model.langcell._checkpoint import from_released, read_release, to_released
from scfoundry.nn.checkpoint import CheckpointError

OFFICIAL = Path(__file__).parents[1] / "data" / "parity" / "langcell"


@pytest.fixture
def release(tmp_path):
    """The official layout in one folder: checkpoint, dictionaries and tokenizer side by side."""
    folder = tmp_path / "release"
    for path in (OFFICIAL / "ckpt", OFFICIAL):
        parts = ("cell_bert", "text_bert", "geneformer", "text_tokenizer")
        for part in parts:
            if (path / part).exists():
                shutil.copytree(path / part, folder / part)
        for file in path.glob("*_*.bin"):
            shutil.copy(file, folder / file.name)
    return folder


@pytest.fixture
def cells():
    return ad.read_h5ad(OFFICIAL / "counts.h5ad")


def test_any_way_to_name_the_folder_loads_it(release, cells):
    by_class = sf.model.LangCell.from_pretrained(release)
    by_folder = sf.model.load_pretrained(release)
    assert isinstance(by_folder, sf.model.LangCell)
    (release / "config.json").write_text(json.dumps({"model_type": "langcell", "hidden_size": 7}))
    expected = by_class.get_latent_representation(cells, device="cpu")
    for model in (by_folder, sf.model.LangCell.from_pretrained(release), sf.model.load_pretrained(release)):
        np.testing.assert_array_equal(model.get_latent_representation(cells, device="cpu"), expected)


def test_its_vocabulary_ranks_cells(release, cells):
    model = sf.model.LangCell.from_pretrained(release)
    by_folder = sf.pp.rank_encode(cells, genes=release, copy=True)
    by_vocabulary = sf.pp.rank_encode(cells, genes=model.genes, copy=True)
    np.testing.assert_array_equal(by_folder.obsm["X_rank"].toarray(), by_vocabulary.obsm["X_rank"].toarray())
    checksums = [ranked.uns["X_rank"]["provenance"]["vocabulary"] for ranked in (by_folder, by_vocabulary)]
    assert checksums[0] == checksums[1]


def test_a_folder_without_a_vocabulary_says_what_belongs_in_it(cells, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no genes.tsv, nor .*gene_median_dictionary.pkl.*sf.pp.gene_medians"):
        sf.pp.rank_encode(cells, genes=tmp_path)


def test_a_classification_head_stays_out_of_the_official_files(release):
    model = sf.model.LangCell.from_pretrained(release)
    before = to_released(model.module)
    model = model.copy(n_classes=2)
    after = to_released(model.module)
    assert {file: tensors.keys() for file, tensors in after.items()} == {
        file: tensors.keys() for file, tensors in before.items()
    }
    _, _, files = read_release(release)
    with pytest.raises(CheckpointError, match=r"4 missing: classifier.output.bias"):
        from_released(files, model.module, source="memory")


# ---- damaged and foreign files ---------------------------------------------------------------------------------------


def rewrite(path, change):
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)


def rewrite_json(path, **changes):
    values = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))


def without_cross_attention(tensors):
    for name in [name for name in tensors if "crossattention" in name]:
        del tensors[name]


def renamed(tensors):
    content = {f"transformer.{name}": tensor for name, tensor in tensors.items()}
    tensors.clear()
    tensors.update(content)


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: cut(f / "cell_bert" / "pytorch_model.bin"), "pytorch_model.bin could not be read as a torch file"),
        (lambda f: cut(f / "ctm_head.bin"), "ctm_head.bin could not be read as a torch file"),
        (lambda f: cut(f / "geneformer" / "token_dictionary.pkl"), "no pickled dictionary of plain values"),
        (lambda f: cut(f / "text_bert" / "config.json"), r"text_bert.config.json is damaged: .*Download it again"),
        (
            lambda f: rewrite(f / "text_bert" / "pytorch_model.bin", without_cross_attention),
            "does not fit LangCellModule: .* missing: text.layers.0.context_attention",
        ),
        (
            lambda f: rewrite(f / "text_bert" / "pytorch_model.bin", renamed),
            r"text_bert of .* has no embeddings.word_embeddings.weight. Is it the checkpoint of another model",
        ),
        (lambda f: rewrite(f / "cell_bert" / "pytorch_model.bin", renamed), r"unexpected: cell_bert.transformer"),
        (lambda f: rewrite(f / "cell_proj.bin", renamed), "cell_proj of .* has no weight"),
        (lambda f: rewrite_json(f / "cell_bert" / "config.json", num_hidden_layers=3), "missing: cell.layers.2"),
        (lambda f: rewrite_json(f / "text_bert" / "config.json", hidden_size=None), "lacks hidden_size: .*BERT"),
        (
            lambda f: rewrite_json(f / "cell_bert" / "config.json", position_embedding_type="relative_key"),
            "has 'relative_key' positions",
        ),
        (lambda f: shutil.copy(f / "text_proj.bin", f / "ctm_head.bin"), "of another shape: match_head"),
    ],
)
def test_damaged_and_foreign_files_are_refused(release, damage, message):
    damage(release)
    with pytest.raises(CheckpointError, match=message):
        sf.model.LangCell.from_pretrained(release)


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("cell_bert/pytorch_model.bin", r"lacks cell_bert.pytorch_model.bin, parts of the official LangCell release"),
        ("text_bert/config.json", "lacks text_bert.config.json"),
        ("ctm_head.bin", "lacks ctm_head.bin"),
        ("text_tokenizer/vocab.txt", r"has no text tokenizer.*BiomedBERT.*to .*text_tokenizer"),
        ("geneformer/gene_median_dictionary.pkl", r"has no gene_median_dictionary.pkl and token_dictionary.pkl"),
        ("geneformer/token_dictionary.pkl", r"token_dictionary.pkl. They are Geneformer's .*to .*geneformer"),
    ],
)
def test_missing_parts_are_named(release, missing, message):
    (release / missing).unlink()
    with pytest.raises(FileNotFoundError, match=message):
        sf.model.LangCell.from_pretrained(release)


def test_dictionaries_numbered_otherwise_are_refused(release):
    shutil.copy(release / "geneformer" / "gene_median_dictionary.pkl", release / "geneformer" / "token_dictionary.pkl")
    with pytest.raises(CheckpointError, match="do not number the genes that have medians from 2 on"):
        sf.model.LangCell.from_pretrained(release)
