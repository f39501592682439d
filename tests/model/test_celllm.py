"""CellLM: what it reads of a cell, what no embedding depends on, what it learns from, and its official file."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from cases import disturb, equal, weights
from scipy import sparse
from torch.nn import functional as F

import scfoundry as sf
from scfoundry._device import Compute
from scfoundry.data.matrix.cells import Cells
from scfoundry.model._verbs import verbs_of
from scfoundry.model.celllm._checkpoint import from_released, to_released
from scfoundry.model.celllm._objectives import Pretraining, hide_levels, objective_weights
from scfoundry.model.celllm._tokens import CLS, PAD, CellTokens, longest_kept
from scfoundry.model.celllm._tumour import tumour_codes
from scfoundry.nn.checkpoint import CheckpointError, read_torch_file

OFFICIAL = Path(__file__).parents[1] / "data" / "parity" / "celllm"
CPU = torch.device("cpu")
TINY = {"n_hidden": 16, "n_layers": 2, "n_heads": 2, "n_head": 8, "n_intermediate": 16, "n_features": 16}
TINY |= {"n_contrast": 8}
QUICK = {"max_epochs": 2, "lr": 1e-3, "batch_size": 20, "accelerator": "cpu"}


def trainable(adata, *, tumour_key="tumour", seed=0, **config):
    sf.model.CellLM.setup_anndata(adata, tumour_key=tumour_key)
    return sf.model.CellLM(adata, seed=seed, **(TINY | config))


@pytest.fixture
def adata(make_adata):
    """Cells, some of which are known to be of a tumour or not."""
    adata = make_adata(50, 60)
    adata.obs["tumour"] = (adata.obs["cell_type"] == "B cell").astype(object)
    adata.obs.loc[adata.obs_names[:5], "tumour"] = None
    return adata


def embed(model, adata, **how):
    return model.get_latent_representation(adata, **{"device": "cpu", "precision": "float32"} | how)


# ---- what it reads -------------------------------------------------------------------------------------------------


def batch_of(model, adata):
    cells = Cells.of(adata, model.genes, caller="test")
    return CellTokens(cells.reader, model.config).batch(np.arange(adata.n_obs), CPU)


def test_a_cell_is_its_expressed_genes_with_the_whole_part_of_their_logarithm(make_adata):
    adata = make_adata(30, 60)
    model = sf.model.CellLM(genes=adata.var_names, **TINY)
    cells, counts = batch_of(model, adata), adata.X.toarray()
    values = np.log1p(counts / counts.sum(1, keepdims=True) * 1e4)
    for row in range(30):
        expressed = np.flatnonzero(counts[row])
        n = len(expressed) + 1
        assert cells.genes[row, :n].tolist() == [60, *expressed]
        assert cells.tokens[row, :n].tolist() == [CLS, *np.minimum(values[row, expressed], 5).astype(int)]
        assert (cells.tokens[row, n:] == PAD).all()
        assert (cells.genes[row, n:] == 61).all()
        assert cells.present[row].sum() == n
    torch.testing.assert_close(cells.weights, cells.present.float())


def test_official_padding_is_one_position_that_counts(make_adata):
    adata = make_adata(30, 60)
    model = sf.model.CellLM(genes=adata.var_names, padding="official", max_length=100, **TINY)
    cells = batch_of(model, adata)
    assert (cells.weights.sum(1) == 100).all()
    assert ((cells.weights > 0).sum(1) == cells.present.sum(1) + 1).all()


def test_a_cell_without_counts_is_cls_alone(make_adata):
    adata = make_adata(4, 60)
    adata.X = sparse.csr_matrix(np.r_[np.zeros((1, 60)), adata.X.toarray()[1:]].astype(np.float32))
    for padding in ("none", "official"):
        model = sf.model.CellLM(genes=adata.var_names, padding=padding, **TINY)
        assert batch_of(model, adata).present[0].sum() == 1
        for pooling in ("cls", "mean", "contrast"):
            found = embed(model.copy(pooling=pooling), adata)
            assert np.isfinite(found).all()
            assert (found[0] == 0).all() == (pooling == "mean")


def test_longer_cells_keep_the_highest_genes_or_the_first():
    values = sparse.csr_matrix(np.array([[1.0, 3, 0, 3, 2, 3], [0, 0, 4, 0, 0, 0]]))
    highest, first = (longest_kept(values, 3, how).toarray() for how in ("expression", "vocabulary"))
    assert highest.tolist() == [[0, 3, 0, 3, 0, 3], [0, 0, 4, 0, 0, 0]]
    assert first.tolist() == [[1, 3, 0, 3, 0, 0], [0, 0, 4, 0, 0, 0]]
    assert longest_kept(values, 2, "expression").toarray()[0].tolist() == [0, 3, 0, 3, 0, 0]


@pytest.mark.parametrize("truncation", ["expression", "vocabulary"])
def test_a_window_that_is_too_short_is_told_with_the_one_that_is_not(make_adata, logged, truncation):
    adata = make_adata(30, 60)
    model = sf.model.CellLM(genes=adata.var_names, max_length=10, truncation=truncation, **TINY)
    n_long = int((adata.X.getnnz(1) > 9).sum())
    shortened = embed(model, adata)
    (message,) = [m for m in logged if "express 10 genes or more" in m]
    assert message.startswith(f"{n_long} of 30 cells")
    assert message.endswith("load it with max_length=61.")
    logged.clear()
    assert np.abs(embed(model.copy(max_length=61), adata) - shortened).max() > 1e-3
    assert not logged


# ---- what no embedding depends on ----------------------------------------------------------------------------------


@pytest.mark.parametrize("padding", ["none", "official"])
@pytest.mark.parametrize("attention", ["favor", "softmax"])
@pytest.mark.parametrize("pooling", ["cls", "mean", "contrast"])
def test_batches_mates_and_order_play_no_part(make_adata, padding, attention, pooling):
    adata = make_adata(30, 60)
    how = {"padding": padding, "attention": attention, "pooling": pooling}
    model = sf.model.CellLM(genes=adata.var_names, **TINY, **how)
    expected = embed(model, adata)
    assert expected.std(0).max() > 1e-3
    rng = np.random.default_rng(0)
    cells, genes = rng.permutation(30), rng.permutation(60)
    np.testing.assert_allclose(embed(model, adata[cells, genes].copy())[np.argsort(cells)], expected, atol=1e-5)
    for size in (1, 7):
        np.testing.assert_allclose(embed(model, adata, batch_size=size), expected, atol=1e-5)
    # A mate whose keys are far larger moves nothing.
    louder = adata.copy()
    louder.X = sparse.csr_matrix(np.r_[louder.X.toarray()[:-1], np.eye(60, dtype=np.float32)[:1] * 1e4])
    np.testing.assert_allclose(embed(model, louder)[:-1], expected[:-1], atol=1e-5)


def test_features_approach_exact_attention(make_adata):
    adata = make_adata(30, 60)
    exact = sf.model.CellLM(genes=adata.var_names, attention="softmax", **TINY)
    expected = embed(exact, adata)
    apart = {}
    for n in (4, 1024):
        model = sf.model.CellLM(genes=adata.var_names, **TINY | {"n_features": n})
        state = exact.module.state_dict()
        model.module.load_state_dict({k: v if k.endswith("omega") else state[k] for k, v in weights(model).items()})
        apart[n] = np.abs(embed(model, adata) - expected).mean()
    assert apart[1024] < apart[4] / 3


# ---- what it learns from -------------------------------------------------------------------------------------------


def test_hidden_levels_are_a_share_of_each_cell_and_never_cls_or_padding(make_adata):
    adata = make_adata(30, 60)
    cells = batch_of(sf.model.CellLM(genes=adata.var_names, **TINY), adata)
    torch.manual_seed(0)
    shown, chosen = hide_levels(cells, 0.15)
    n_genes = cells.present.sum(1) - 1
    assert chosen.sum(1).tolist() == torch.ceil(0.15 * n_genes).long().tolist()
    assert not chosen[:, 0].any()
    assert not (chosen & ~cells.present).any()
    hidden = (shown.tokens == PAD) & cells.present
    assert (hidden <= chosen).all()
    assert 0.75 < hidden.sum() / chosen.sum() < 1
    assert (shown.tokens[~hidden] == cells.tokens[~hidden]).all()
    assert (shown.genes == cells.genes).all()


def losses_of(adata, part_size, *, seed=0, **config):
    """Losses of all cells, and their gradients, in double precision."""
    model = trainable(adata, **config)
    model.module.double().train()
    cells = CellTokens(Cells.of(adata, model.genes, caller="test").reader, model.config)
    objectives = dict.fromkeys(("masked_values", "tumour", "contrastive"), 1.0)
    loss = Pretraining(model.module, cells, tumour_codes(adata, "tumour"), objectives, part_size)
    torch.manual_seed(seed)
    losses = loss(np.arange(adata.n_obs), 0)
    losses["loss"].backward()
    gradients = {name: p.grad for name, p in model.module.named_parameters() if p.grad is not None}
    return {name: value.item() for name, value in losses.items()}, gradients


def test_parts_change_neither_losses_nor_gradients(adata, monkeypatch):
    """Without randomness: dropout off, and levels hidden by gene instead of at random."""
    by_gene = lambda cells, ratio: (  # noqa: E731
        cells._replace(tokens=cells.tokens.masked_fill(cells.genes % 7 == 0, PAD)),
        (cells.genes % 7 == 0) & cells.present & (cells.tokens != CLS),
    )
    monkeypatch.setattr("scfoundry.model.celllm._objectives.hide_levels", by_gene)
    expected_losses, expected = losses_of(adata, adata.n_obs, dropout=0.0)
    assert expected_losses["loss"] == pytest.approx(sum(expected_losses.values()) / 2)
    for size in (1, 7):
        losses, gradients = losses_of(adata, size, dropout=0.0)
        assert losses == pytest.approx(expected_losses, rel=1e-9)
        assert gradients.keys() == expected.keys()
        for name, gradient in expected.items():
            torch.testing.assert_close(gradients[name], gradient, rtol=1e-6, atol=1e-9, msg=name)


def test_unknown_cells_say_nothing_of_tumours(adata):
    losses, _ = losses_of(adata, None)
    known = adata[5:].copy()
    model = trainable(adata)
    logits = model.module.double().tumour_head(model.module(batch_of(model, known))[:, 0])
    truth = torch.from_numpy(tumour_codes(known, "tumour"))
    expected = F.cross_entropy(logits, truth).item()
    assert losses_of(adata, None, dropout=0.0)[0]["tumour"] == pytest.approx(expected, rel=1e-6)
    assert losses["tumour"] != pytest.approx(expected, rel=1e-6)  # with dropout


def test_training_lowers_the_losses_and_seeds_decide(adata):
    models = [trainable(adata) for _ in range(3)]
    for model, seed in zip(models, (0, 0, 1), strict=True):
        model.train(**QUICK | {"max_epochs": 5, "lr": 3e-3}, part_size=6, seed=seed)
    assert equal(*map(weights, models[:2]))
    assert not equal(*map(weights, models[1:]))
    history = models[0].history
    for name in ("loss", "masked_values", "contrastive"):
        values = history[f"{name}_train"].to_numpy().ravel()
        assert values[-1] < values[0], name
        assert f"{name}_validation" in history


def test_tumours_are_learned_from_their_labels(adata):
    model = trainable(adata)
    alone = {"masked_values": 0, "contrastive": 0}
    model.train(**QUICK | {"max_epochs": 15, "lr": 1e-2}, loss_weights=alone, validation_size=0)
    values = model.history["tumour_train"].to_numpy().ravel()
    assert values[-1] < values[0] - 0.1
    assert {name for name in model.history if name.endswith("_train")} >= {"loss_train", "tumour_train"}
    assert "contrastive_train" not in model.history


def test_interrupted_training_resumes_to_the_same_weights(adata, tmp_path):
    """Also where random features are drawn anew on the way."""
    through, interrupted, resumed = (trainable(adata, redraw_interval=3) for _ in range(3))
    disturb(resumed)
    how = QUICK | {"schedule": "constant", "part_size": 6}
    drawn = through.module.layers[0].omega.clone()
    through.train(**how | {"max_epochs": 4})
    interrupted.train(**how, checkpoint_dir=tmp_path)
    resumed.train(**how | {"max_epochs": 4}, checkpoint_dir=tmp_path)
    assert equal(weights(through), weights(resumed))
    assert not torch.equal(through.module.layers[0].omega, drawn)


def test_random_features_are_counted_in_optimiser_steps_and_saved(adata, tmp_path):
    model = trainable(adata, redraw_interval=1000)
    drawn = [layer.omega.clone() for layer in model.module.layers]
    model.train(**QUICK, part_size=6)  # 45 cells, 3 batches of each epoch
    assert int(model.module.steps_since_redraw) == 6
    assert all(torch.equal(layer.omega, old) for layer, old in zip(model.module.layers, drawn, strict=True))
    accumulated = trainable(adata)
    accumulated.train(**QUICK, accumulate_grad_batches=3)
    assert int(accumulated.module.steps_since_redraw) == 2
    often = trainable(adata, redraw_interval=4)
    often.train(**QUICK)
    assert int(often.module.steps_since_redraw) == 2
    assert not any(torch.equal(layer.omega, old) for layer, old in zip(often.module.layers, drawn, strict=True))
    often.save_pretrained(tmp_path / "pretrained")
    often.save(tmp_path / "saved")
    for loaded in (
        sf.model.CellLM.from_pretrained(tmp_path / "pretrained"),
        sf.model.CellLM.load(tmp_path / "saved", adata=False, accelerator="cpu"),
    ):
        assert equal(weights(loaded), weights(often))


def test_frozen_genes_stay(adata):
    model = trainable(adata, freeze_genes=True)
    before = model.gene_vectors()
    model.train(**QUICK)
    np.testing.assert_array_equal(model.gene_vectors(), before)
    learned = trainable(adata)
    learned.train(**QUICK)
    vectors = learned.module.genes.weight
    assert not np.array_equal(learned.gene_vectors(), before)
    assert (vectors[-1] == 0).all()


def test_a_larger_batch_makes_the_contrast_harder(adata):
    contrasts = [losses_of(adata[:n].copy(), None)[0]["contrastive"] for n in (5, 50)]
    assert contrasts[0] < contrasts[1]


# ---- what it refuses -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "how", "message"),
    [
        ({}, {"batch_size": 1}, r"a batch of 1 has none: train\(batch_size=512\), or .*\"contrastive\": 0"),
        ({"dropout": 0.0}, {}, r"this model has dropout=0.0: CellLM\(adata, dropout=0.1\)"),
        ({"n_contrast": 0}, {"loss_weights": {"contrastive": 1}}, r"needs a head, .*n_contrast=512"),
        ({"tumour_head": False}, {"loss_weights": {"tumour": 1}}, r"setup_anndata\(adata, tumour_key=...\)"),
        ({}, {"loss_weights": {"mlm": 1}}, "no 'mlm'; name objectives of this model: 'masked_values', 'tumour',"),
        ({}, {"loss_weights": dict.fromkeys(("masked_values", "tumour", "contrastive"), 0)}, "nothing to learn from"),
        ({}, {"part_size": 0}, "part_size must be at least 1 cell; got 0"),
    ],
)
def test_training_that_cannot_be_says_how_it_can(adata, config, how, message):
    with pytest.raises(ValueError, match=message):
        trainable(adata, **config).train(**QUICK | how)


def test_without_labels_or_heads_the_others_are_learned_from(adata):
    assert objective_weights(None, {"tumour": "why"}) == {"masked_values": 1, "tumour": 0, "contrastive": 1}
    model = trainable(adata, tumour_key=None, n_contrast=0)
    model.train(**QUICK)
    assert {name.rsplit("_", 1)[0] for name in model.history} >= {"masked_values"}
    assert "tumour_train" not in model.history
    assert "contrastive_train" not in model.history


def test_kinds_of_tissue_are_booleans_or_words(adata):
    adata.obs["kind"] = pd.Categorical(["normal", "Tumor", "tumour", None, "healthy"] * 10)
    assert tumour_codes(adata, "kind")[:5].tolist() == [0, 1, 1, -1, 0]
    adata.obs["flag"] = [True, False] * 25
    assert tumour_codes(adata, "flag")[:2].tolist() == [1, 0]
    adata.obs["kind"] = pd.Categorical(["normal", "glioma"] * 25)
    with pytest.raises(ValueError, match=r"25 cells have something else, for example 'glioma'.*isin\(\['glioma'\]\)"):
        sf.model.CellLM.setup_anndata(adata, tumour_key="kind")
    with pytest.raises(KeyError, match=r"obs has no column 'nothing'; it has .*'kind'"):
        sf.model.CellLM.setup_anndata(adata, tumour_key="nothing")


@pytest.mark.parametrize("values", ["negative", "scaled"])
def test_values_that_are_no_counts_are_refused(make_adata, values):
    adata = make_adata(30, 60)
    model = sf.model.CellLM(genes=adata.var_names, **TINY)
    x = adata.X.toarray()
    x = x - 1 if values == "negative" else (x - x.mean(0)) / (x.std(0) + 1)
    with pytest.raises(ValueError, match=r"needs raw counts or .*adata.X looks scaled \([\d,]+ negative values\)"):
        embed(model, AnnData(x, obs=adata.obs, var=adata.var))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"max_length": 1}, "max_length must leave room for <cls> and a gene; got 1"),
        ({"mask_ratio": 0.0}, "mask_ratio must lie between 0 and 1; got 0.0"),
        ({"temperature": 0.0}, "temperature must be a finite number above 0; got 0.0"),
        ({"pooling": "contrast", "n_contrast": 0}, "n_contrast=0 says that there is none. Use pooling='cls'"),
        ({"padding": "some"}, "padding must be one of 'none', 'official'; got 'some'"),
    ],
)
def test_configurations_that_cannot_be_are_refused(config, message):
    with pytest.raises(ValueError, match=message):
        sf.model.CellLMConfig(**config)


# ---- official files ------------------------------------------------------------------------------------------------

GENES = [f"ENSG{i:011d}" for i in range(120)]


@pytest.fixture
def release(tmp_path):
    shutil.copy(OFFICIAL / "encoder_checkpoint.pth", tmp_path / "ckpt.pth")
    return tmp_path


def rewrite(folder, change):
    content = torch.load(folder / "ckpt.pth", weights_only=True)
    change(content["model_state_dict"])
    torch.save(content, folder / "ckpt.pth")


def test_genes_come_as_a_list_or_with_data(release):
    model = sf.model.CellLM.from_pretrained(release, genes=GENES)
    assert verbs_of(model) == sf.model.list_pretrained().loc["celllm-50m", "verbs"].split(", ")
    expected = weights(model)
    adata = AnnData(sparse.csr_matrix((1, 120)), var=pd.DataFrame(index=GENES))
    adata.write_h5ad(release / "Zheng68K.h5ad")
    for genes in (adata, release / "Zheng68K.h5ad", str(release / "Zheng68K.h5ad")):
        model = sf.model.CellLM.from_pretrained(release, genes=genes)
        assert model.genes.ids.tolist() == GENES
        assert equal(weights(model), expected)
    assert model.provenance["weights"] == "ckpt"
    assert (model.config.padding, model.config.truncation, model.config.freeze_genes) == (
        "official",
        "vocabulary",
        True,
    )


def test_without_genes_it_says_where_they_are_and_how_they_are_passed(release):
    for load in (sf.model.CellLM.from_pretrained, sf.model.load_pretrained):
        with pytest.raises(
            ValueError, match=r'which 120 genes .*Zheng68K.h5ad .*from_pretrained\(".*", genes="Zheng68K.h5ad"\).*list'
        ):
            load(release)
    with pytest.raises(ValueError, match=r"vectors of 120 genes, but genes names 119\. .*do not filter its genes"):
        sf.model.CellLM.from_pretrained(release, genes=GENES[1:])


def test_a_converted_folder_carries_the_genes(release, tmp_path):
    model = sf.model.CellLM.from_pretrained(release, genes=GENES)
    model.save_pretrained(tmp_path / "converted")
    loaded = sf.model.load_pretrained(tmp_path / "converted")
    assert loaded.genes == model.genes
    assert loaded.config == model.config
    assert equal(weights(loaded), weights(model))
    with pytest.raises(ValueError, match=r"genes.tsv: leave genes= out"):
        sf.model.CellLM.from_pretrained(tmp_path / "converted", genes=GENES)


def test_released_names_map_both_ways(release):
    model = sf.model.CellLM.from_pretrained(release, genes=GENES)
    released = read_torch_file(release / "ckpt.pth")["model_state_dict"]
    back = to_released(model.module)
    assert set(back) == set(released)
    assert all(torch.equal(back[name], tensor.to(back[name].dtype)) for name, tensor in released.items())
    assert equal(from_released(back, model.module, source="memory"), weights(model))


def test_names_of_parallel_training_and_bare_tensors_are_read(release):
    expected = weights(sf.model.CellLM.from_pretrained(release, genes=GENES))
    tensors = read_torch_file(release / "ckpt.pth")["model_state_dict"]
    torch.save({f"module.{name}": tensor for name, tensor in tensors.items()}, release / "ckpt.pth")
    assert equal(weights(sf.model.CellLM.from_pretrained(release, genes=GENES)), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("norm.weight"), "1 missing: norm.weight"),
        (lambda s: s.update(extra=torch.zeros(1)), "1 unexpected: extra"),
        (lambda s: s.update({"to_out.bias": torch.zeros(3)}), r"level_head.bias \(3,\) instead of \(8,\)"),
        (lambda s: s.pop("token_emb.weight"), "lacks token_emb.weight. Is it the checkpoint of another model"),
        (lambda s: s.update({"token_emb.weight": torch.zeros(7, 32)}), "has 7 tokens .*Is it a checkpoint of scBERT"),
    ],
)
def test_every_tensor_is_accounted_for(release, change, message):
    rewrite(release, change)
    with pytest.raises(CheckpointError, match=message):
        sf.model.CellLM.from_pretrained(release, genes=GENES)


def test_files_are_chosen_by_name(release):
    shutil.copy(release / "ckpt.pth", release / "nocls_fixed.pth")
    with pytest.raises(ValueError, match=r"several files: ckpt, nocls_fixed. Choose one: version='ckpt'"):
        sf.model.CellLM.from_pretrained(release, genes=GENES)
    assert sf.model.CellLM.from_pretrained(release, version="nocls_fixed", genes=GENES).provenance["weights"] == (
        "nocls_fixed"
    )
    with pytest.raises(FileNotFoundError, match=r"no other.pth; it has \['ckpt', 'nocls_fixed'\]"):
        sf.model.CellLM.from_pretrained(release, version="other", genes=GENES)


def test_official_weights_go_on_learning_with_heads_of_their_own(release, make_adata):
    adata = make_adata(40, 60)
    genes = [*adata.var_names, *GENES[60:]]
    sf.model.CellLM.setup_anndata(adata)
    model = sf.model.CellLM.from_pretrained(release, adata, genes=genes, n_contrast=8)
    assert torch.equal(
        model.module.norm.weight, read_torch_file(release / "ckpt.pth")["model_state_dict"]["norm.weight"]
    )
    before = weights(model)
    model.train(**QUICK)
    after = weights(model)
    assert torch.equal(after["genes.weight"], before["genes.weight"])
    assert not torch.equal(after["contrast.linear.weight"], before["contrast.linear.weight"])


def test_attention_of_cls_is_a_distribution_over_positions(make_adata):
    adata = make_adata(12, 60)
    for attention in ("favor", "softmax"):
        model = sf.model.CellLM(genes=adata.var_names, attention=attention, padding="official", **TINY)
        cells = batch_of(model, adata)
        with torch.no_grad():
            shares = model.module.cls_attention(cells)
        assert shares.shape == (12, 2, 2, cells.tokens.shape[1])
        torch.testing.assert_close(shares.sum(-1), torch.ones(12, 2, 2))
        assert (shares.permute(0, 3, 1, 2)[cells.weights == 0] == 0).all()


def test_capabilities_in_parts_are_those_of_all_cells(make_adata):
    """Gradients of an embedding that a task trains through, cut into parts or not."""
    adata = make_adata(40, 60)
    model = sf.model.CellLM(genes=adata.var_names, **TINY)
    cells = Cells.of(adata, model.genes, caller="test")
    parts = model.batch(cells.read())
    assert len(parts) == 3
    whole = CellTokens(cells.reader, model.config).parts(np.arange(40), CPU, 40)
    gradients = []
    for batch in (parts, whole):
        model.module.zero_grad()
        model.module.embed(batch).pow(2).sum().backward()
        gradients.append(model.module.layers[0].query.weight.grad.clone())
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(
        model.module.embed(parts).detach(), model.embed(cells, Compute.resolve("cpu", "float32")), atol=1e-5
    )


# ---- vectors of genes that it begins with --------------------------------------------------------------------------


def test_gene_vectors_are_found_by_name_and_others_get_their_mean(make_adata, logged, tmp_path):
    adata = make_adata(10, 60)
    table = sf.datasets.human_genes()
    symbols = table.loc[adata.var_names[:20], "symbol"]
    rng = np.random.default_rng(0)
    vectors = pd.DataFrame(rng.normal(size=(22, 16)), [*symbols[::-1], adata.var_names[3], "nonsense"])
    model = trainable(adata, tumour_key=None, gene_vectors=vectors)
    found = model.gene_vectors()
    expected = vectors.iloc[:20][::-1].to_numpy(copy=True)
    expected[3] = (expected[3] + vectors.iloc[20]) / 2  # by symbol and by id
    np.testing.assert_allclose(found[:20], expected, rtol=1e-6)
    np.testing.assert_allclose(found[20:], np.tile(expected.mean(0), (40, 1)), rtol=1e-5)
    assert any("20 of 60 genes have a vector in gene_vectors; the other 40 get the mean" in m for m in logged)
    special = trainable(adata, tumour_key=None).module.genes.weight[60:]
    assert torch.equal(model.module.genes.weight[60:], special)
    model.save(tmp_path / "saved")
    model.save_pretrained(tmp_path / "pretrained")
    for loaded in (
        sf.model.CellLM.load(tmp_path / "saved", adata=False, accelerator="cpu"),
        sf.model.CellLM.from_pretrained(tmp_path / "pretrained"),
        model.copy(),
    ):
        np.testing.assert_array_equal(loaded.gene_vectors(), found)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.iloc[:, :8], r"8 columns, but n_hidden=16.*n_hidden=8\), or .*\(edges, n_dims=16\)"),
        (lambda v: v.mul([np.nan, 1, 1], axis=0), r"missing or infinite values for 1 genes.*vectors.dropna\(\)"),
        (lambda v: v.set_axis(list("abc")), r"none of the 60 genes .*'a', 'b', 'c'.*set_axis\(symbols\)"),
    ],
)
def test_gene_vectors_that_do_not_fit_say_why(make_adata, change, message):
    adata = make_adata(10, 60)
    vectors = pd.DataFrame(np.ones((3, 16)), index=adata.var_names[:3])
    with pytest.raises(ValueError, match=message):
        trainable(adata, tumour_key=None, gene_vectors=change(vectors))


def test_weights_that_bring_gene_vectors_take_no_others(make_adata, tmp_path):
    adata = make_adata(10, 60)
    trainable(adata, tumour_key=None).save_pretrained(tmp_path)
    vectors = pd.DataFrame(np.ones((3, 16)), index=adata.var_names[:3])
    with pytest.raises(ValueError, match=r"leave gene_vectors out, or CellLM\(adata, gene_vectors="):
        sf.model.CellLM.from_pretrained(tmp_path, gene_vectors=vectors)
