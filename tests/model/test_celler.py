"""Celler: what it reads of a cell, what it learns from, and its official folders."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from cases import equal, moved, weights
from scipy import sparse

import scfoundry as sf
from scfoundry._device import Compute
from scfoundry.data.genes import GeneVocabulary
from scfoundry.data.matrix.cells import Cells
from scfoundry.data.matrix.reader import CountsInMemory
from scfoundry.data.tokens.bins import BinnedGenes, gene_keys, truncated
from scfoundry.model.celler._checkpoint import canonical, from_released, read_release, to_released
from scfoundry.model.celler._domains import DomainNorm, reversed_gradient
from scfoundry.model.celler._module import MASKED, PADDED
from scfoundry.model.celler._objectives import MaskedValues, cell_similarity_loss, hide_values, objective_weights
from scfoundry.nn.checkpoint import CheckpointError

OFFICIAL = Path(__file__).parents[1] / "data" / "parity" / "celler"
CPU = Compute.resolve("cpu", "float32")
TINY = {"n_hidden": 32, "n_layers": 2, "n_heads": 4, "n_intermediate": 32, "n_bins": 11}
QUICK = {"max_epochs": 2, "lr": 1e-3, "batch_size": 16, "accelerator": "cpu"}


def trainable(adata, *, batch_key=None, seed=0, **config):
    sf.model.Celler.setup_anndata(adata, batch_key=batch_key)
    return sf.model.Celler(adata, seed=seed, **(TINY | config))


# ---- what it reads -------------------------------------------------------------------------------------------------


def tokens_of(model, adata):
    """Genes and values of every cell, `<cls>` left out."""
    tokens = model._tokens(Cells.of(adata, model.genes, batch_key="batch", caller="test"))
    batch = tokens.batch(np.arange(adata.n_obs), torch.device("cpu"))
    n = len(model.genes)
    assert (batch.genes[:, 0] == n + 1).all()
    assert (batch.values[:, 0] == model.config.cls_value).all()
    assert batch.present is None or ((batch.values == PADDED) >= ~batch.present).all()
    rows = zip(batch.genes[:, 1:].tolist(), batch.values[:, 1:].tolist(), strict=True)
    return [{g: v for g, v in zip(*row, strict=True) if g != n} for row in rows]


def test_a_cell_is_its_expressed_genes_with_their_bins(make_adata):
    adata = make_adata(30, 60)
    model = sf.model.Celler(genes=adata.var_names, **TINY, cls_value=0)
    binned = sf.pp.bin_expression(adata, n_bins=11, copy=True).layers["X_binned"].toarray()
    expected = [{int(g): int(row[g]) for g in np.flatnonzero(row)} for row in binned]
    assert tokens_of(model, adata) == expected


def test_with_explicit_zeros_measured_genes_are_read_that_a_cell_does_not_express(make_adata):
    adata = make_adata(30, 60)
    counts = adata.X.toarray()
    counts[4] = 0
    adata.X = sparse.csr_matrix(counts)
    model = sf.model.Celler(genes=[*adata.var_names, "ENSG00000999999"], **TINY, explicit_zeros=True)
    binned = sf.pp.bin_expression(adata, n_bins=11, copy=True).layers["X_binned"].toarray()
    expected = [{int(g): int(row[g]) for g in range(60)} if row.any() else {} for row in binned]
    assert tokens_of(model, adata) == expected


def test_bins_are_made_before_a_cell_is_cut(make_adata):
    adata = make_adata(30, 60)
    whole, cut = (sf.model.Celler(genes=adata.var_names, **TINY, max_length=n) for n in (100, 6))
    for all_genes, kept in zip(tokens_of(whole, adata), tokens_of(cut, adata), strict=True):
        assert kept.items() <= all_genes.items()
        assert len(kept) == min(5, len(all_genes))
        assert sorted(kept.values()) == sorted(all_genes.values())[-5:]


@pytest.mark.parametrize("truncation", ["expression", "hvg", "random"])
def test_which_genes_are_kept_depends_on_the_cell_alone(make_adata, truncation):
    adata = make_adata(40, 60)
    model = sf.model.Celler(genes=adata.var_names, **TINY, max_length=8, truncation=truncation)
    expected = model.get_latent_representation(adata, device="cpu", batch_key="batch")
    rng = np.random.default_rng(0)
    cells, genes = rng.permutation(40), rng.permutation(60)
    moved_cells = adata[cells, genes].copy()
    found = model.get_latent_representation(moved_cells, device="cpu", batch_key="batch", batch_size=3)
    np.testing.assert_allclose(found, expected[cells], atol=1e-5)
    kept = tokens_of(model, adata)
    assert [kept[i] for i in cells] == tokens_of(model, moved_cells)


def cells_with(*bins):
    lengths = np.cumsum([0, *map(len, bins)])
    genes = np.concatenate([np.arange(len(cell)) for cell in bins]).astype(np.int32)
    return BinnedGenes(lengths, genes, np.concatenate(bins).astype(np.uint16))


def test_how_a_cell_is_cut():
    keys = gene_keys("ABCDE")
    cells = cells_with([5, 1, 3, 1, 1], [2, 2])
    by_value = truncated(cells, 3, "expression", keys=keys)
    assert by_value.genes[:2].tolist() == [0, 2]
    assert np.diff(by_value.indptr).tolist() == [3, 2]
    variable = truncated(cells, 3, "hvg", keys=keys, variable=np.array([1, 4]))
    assert variable.genes[:3].tolist() == [0, 1, 4]
    alike = cells_with([1, 1, 1, 1, 1], [1, 1, 1, 1, 1])
    ties = truncated(alike, 2, "expression", keys=keys)
    assert ties.genes[:2].tolist() == ties.genes[2:].tolist() == sorted(np.argsort(keys)[:2])


def test_a_random_cut_keeps_every_gene_alike_often():
    n_cells, n_genes = 2000, 20
    rng = np.random.default_rng(0)
    chosen = [np.sort(rng.permutation(40)[:n_genes]) for _ in range(n_cells)]
    genes = np.concatenate(chosen).astype(np.int32)
    indptr = np.arange(0, n_cells * n_genes + 1, n_genes)
    keys = gene_keys(map(str, range(40)))
    cut = truncated(BinnedGenes(indptr, genes, np.ones(len(genes), np.uint16)), 5, "random", keys=keys)
    shares = np.bincount(cut.genes, minlength=40) / np.bincount(genes, minlength=40)
    assert shares.min() > 0.2
    assert shares.max() < 0.3


def test_genes_meet_the_vocabulary_by_every_route_and_never_padding():
    names = ["ACTB", "C11orf21", "RP11-34P13.7", "MATR3_ENSG00000015479", "<pad>", "NOBODY"]
    adata = AnnData(np.ones((3, 6), dtype=np.float32))
    adata.var_names = ["Actb", "C11ORF21", "rp11-34p13.7", "ENSG00000015479", "<pad>", "somebody"]
    vocabulary = dict.fromkeys(names)
    del vocabulary["<pad>"]
    genes = GeneVocabulary(vocabulary, aliases={"ENSG00000015479": "MATR3_ENSG00000015479"})
    alignment = genes.align(adata)
    assert [genes.ids[i] if i >= 0 else None for i in alignment.target] == [*names[:4], None, None]


# ---- what it learns from -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def adata(make_adata):
    return make_adata(80, 60)


def a_batch(model, adata, n=20):
    tokens = model._tokens(Cells.of(adata, model.genes, batch_key="batch", caller="test"))
    return tokens, tokens.batch(np.arange(n), torch.device("cpu"))


def test_neither_cls_nor_padding_is_hidden(adata):
    model = sf.model.Celler(genes=adata.var_names, **TINY)
    _, cells = a_batch(model, adata)
    torch.manual_seed(0)
    shown, hidden = hide_values(cells, 0.5)
    assert not hidden[:, 0].any()
    assert not hidden[~cells.present].any()
    share = hidden[cells.present].float().mean()
    assert 0.4 < share < 0.6
    assert (shown.values[hidden] == MASKED).all()
    assert torch.equal(shown.values[~hidden], cells.values[~hidden])
    assert torch.equal(shown.genes, cells.genes)
    _, one = hide_values(cells, 1e-9)
    assert one.sum() >= 1


def test_elastic_similarity_by_its_definition():
    cells = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    expected = 0.0
    for i in range(7):
        for j in range(7):
            cosine = max(0.0, float(torch.cosine_similarity(cells[i], cells[j], dim=0))) if i != j else 0.0
            expected += (1 - (cosine - 0.6) ** 2) / 49
    np.testing.assert_allclose(cell_similarity_loss(cells, 0.6), expected, rtol=1e-5)


def test_every_objective_has_its_weight_and_what_has_none_is_left_out(adata):
    config = sf.model.CellerConfig(**TINY, n_batches=2, batches=("a", "b"), explicit_zeros=True)
    assert objective_weights(config, {"ecs": 3}) == {"gep": 1, "ecs": 3, "gepc": 1, "nonzero": 1, "dab": 1}
    with pytest.raises(ValueError, match=r"no 'nonzero'; name objectives of this model: 'gep', 'ecs', 'gepc'\."):
        objective_weights(sf.model.CellerConfig(**TINY), {"nonzero": 1})
    model = trainable(adata.copy(), batch_key="batch", explicit_zeros=True)
    tokens, cells = a_batch(model, adata)
    torch.manual_seed(0)
    shown, hidden = hide_values(cells, 0.3)
    model.module.train()
    for kept in ("gep", "gepc", "nonzero", "ecs", "dab"):
        only = dict.fromkeys(("gep", "gepc", "nonzero", "ecs", "dab"), 0.0) | {kept: 2.0}
        losses = MaskedValues(model.module, tokens, only).losses([(shown, hidden, cells.values)])
        assert set(losses) == {kept}
        assert losses[kept].isfinite()


def test_parts_of_a_batch_have_the_gradient_of_the_whole(adata):
    model = trainable(adata.copy(), batch_key="batch", explicit_zeros=True, domain_norm=False, dropout=0.0)
    rows, found = np.arange(12), []
    tokens, whole = a_batch(model, adata, len(rows))
    model.module.train()
    torch.manual_seed(0)
    shown, hidden = hide_values(whole._replace(present=torch.ones_like(whole.genes, dtype=torch.bool)), 0.3)
    for sizes in ([12], [5, 4, 3]):
        ways = zip(*(part.split(sizes) for part in (*shown, hidden, whole.values)), strict=True)
        drawn = [(type(shown)(*parts), of_part, values) for *parts, of_part, values in ways]
        losses = MaskedValues(model.module, tokens, objective_weights(model.config, None)).losses(drawn)
        assert set(losses) == {"gep", "gepc", "nonzero", "ecs", "dab"}
        model.module.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        found.append({name: p.grad.clone() for name, p in model.module.named_parameters() if p.grad is not None})
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-4, atol=1e-5, msg=name)
    parts = MaskedValues(model.module, tokens, {"gep": 1.0, "ecs": 0.0}, part_size=5)
    sizes = [len(part.rows) for part in tokens.parts(rows, torch.device("cpu"), parts.part_size)]
    assert sizes == [4, 4, 4]
    with pytest.raises(ValueError, match=r"part_size=2 divides a batch.*accumulate_grad_batches"):
        trainable(adata.copy(), batch_key="batch").train(part_size=2, max_epochs=1)


def test_the_gradient_is_reversed():
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    (reversed_gradient(x) * torch.tensor([3.0, 4.0])).sum().backward()
    assert x.grad.tolist() == [-3.0, -4.0]


def test_batches_are_normalised_apart_and_unknown_ones_by_all():
    norm = DomainNorm(2, 3)
    torch.manual_seed(0)
    x, batches = torch.randn(8, 5, 3), torch.tensor([0, 1] * 4)
    x[batches == 1] = x[batches == 1] * 3 + 7
    present = torch.ones(8, 5, dtype=torch.bool)
    present[:, 4] = False
    x[:, 4] = 1e6
    norm.train()
    for _ in range(200):
        out = norm(x, batches, present)
    for batch in range(2):
        own = out[batches == batch][:, :4].flatten(0, 1)
        torch.testing.assert_close(own.mean(0), torch.zeros(3), atol=1e-5, rtol=0)
        torch.testing.assert_close(own.std(0, correction=0), torch.ones(3), atol=1e-3, rtol=0)
        real = x[batches == batch][:, :4].flatten(0, 1)
        torch.testing.assert_close(norm.mean[batch], real.mean(0), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(norm.variance[batch], real.var(0), atol=1e-4, rtol=1e-4)
    norm.eval()
    both = torch.cat([(norm.variance[i] + norm.mean[i] ** 2)[None] for i in range(2)]).mean(0) - norm.mean.mean(0) ** 2
    expected = (x - norm.mean.mean(0)) / (both + 6.1e-5).sqrt()
    torch.testing.assert_close(norm(x, torch.full((8,), 2)), expected, atol=1e-4, rtol=1e-4)


def test_hidden_values_are_learned(make_adata):
    adata = make_adata(300, 60)
    model = trainable(adata, dropout=0.0, mask_ratio=(0.15, 0.3))
    model.train(max_epochs=15, lr=3e-3, batch_size=20, accelerator="cpu")
    history = {name: frame.iloc[:, 0].astype(float) for name, frame in model.history.items()}
    assert {"loss_train", "gep_train", "gepc_validation"} <= set(history)
    binned = sf.pp.bin_expression(adata, n_bins=11, copy=True).layers["X_binned"].data
    # Guessing the mean of all bins has their variance as its loss.
    assert history["gepc_validation"].iloc[-1] < 0.85 * binned.var()
    assert history["gep_validation"].iloc[-1] < 0.85 * binned.var()


def test_integration_trains_every_head_and_knows_its_batches(make_adata):
    adata = make_adata(80, 60)
    model = trainable(adata, batch_key="batch", explicit_zeros=True)
    assert model.config.batches == ("batch 0", "batch 1")
    before = weights(model)
    model.train(**QUICK)
    assert moved(before, model) == {name for name, _ in model.module.named_children()} - {"dropout"}
    assert {"nonzero_train", "ecs_train", "dab_train"} <= set(model.history)
    known = model.get_latent_representation(adata, batch_key="batch", device="cpu")
    np.testing.assert_allclose(known, model.get_latent_representation(device="cpu"), atol=1e-6)
    adata.obs["batch"] = pd.Categorical(np.where(adata.obs["batch"] == "batch 0", "batch 0", "new"))
    renamed = model.get_latent_representation(adata, batch_key="batch", device="cpu")
    is_new = (adata.obs["batch"] == "new").to_numpy()
    np.testing.assert_allclose(renamed[~is_new], known[~is_new], atol=1e-6)
    assert np.abs(renamed[is_new] - known[is_new]).max() > 1e-3


def test_an_interrupted_training_goes_on_to_the_same_weights(make_adata, tmp_path):
    def run(folder, interrupt=None):
        model = trainable(make_adata(60, 40), batch_key="batch", seed=3)
        loss, steps = MaskedValues.losses, []

        def losses(self, *args):
            steps.append(None)
            if interrupt is not None and len(steps) == interrupt:
                raise KeyboardInterrupt
            return loss(self, *args)

        MaskedValues.losses = losses
        try:
            model.train(**(QUICK | {"max_epochs": 3}), checkpoint_dir=folder)
        finally:
            MaskedValues.losses = loss
        return weights(model)

    expected = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", interrupt=9)
    assert equal(run(tmp_path / "parts"), expected)


def test_cells_without_known_genes_are_left_out_of_training(make_adata, logged):
    adata = make_adata(60, 40)
    counts = adata.X.toarray()
    counts[5] = 0
    adata.X = sparse.csr_matrix(counts)
    model = trainable(adata)
    model.train(**(QUICK | {"max_epochs": 1}))
    assert any("1 cells without a gene" in message for message in logged)
    assert all(tensor.isfinite().all() for tensor in weights(model).values())


def test_without_data_there_is_nothing_to_train_on(make_adata):
    with pytest.raises(ValueError, match=r"There is nothing to train on.*Celler.setup_anndata"):
        sf.model.Celler(genes=make_adata().var_names, **TINY).train()


# ---- labels --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def classifier(make_adata):
    adata = make_adata(260, 60)[:200].copy()
    model = sf.model.Celler(genes=adata.var_names, **TINY)
    labels = adata.obs["cell_type"].astype(object).to_numpy().copy()
    labels[:5] = None
    model.train_classifier(adata, labels, max_epochs=12, lr=2e-3, batch_size=20, accelerator="cpu")
    return model


def test_labels_are_learned_and_predicted_without_any(classifier, make_adata, tmp_path):
    unseen = make_adata(260, 60)[200:].copy()
    truth = unseen.obs["cell_type"].to_numpy().astype(str)
    unseen.obs = unseen.obs[[]]
    probabilities = classifier.predict_classes(unseen, device="cpu")
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-5)
    named = np.array(classifier.config.classes)[probabilities.argmax(1)]
    assert np.mean(named == truth) > 0.9
    assert classifier.config.cls_value == 0
    assert sum(classifier.config.class_counts) == 195
    classifier.save_pretrained(tmp_path)
    loaded = sf.model.load_pretrained(tmp_path)
    assert loaded.config == classifier.config
    np.testing.assert_array_equal(loaded.predict_classes(unseen, device="cpu"), probabilities)
    moved_cells = np.random.default_rng(0).permutation(60)
    again = loaded.predict_classes(unseen[moved_cells].copy(), device="cpu", batch_size=7)
    np.testing.assert_allclose(again, probabilities[moved_cells], atol=1e-5)


def test_a_head_that_gives_all_cells_one_class_is_warned_of(make_adata, logged):
    adata = make_adata(40, 60)
    model = sf.model.Celler(genes=adata.var_names, **TINY)
    model.train_classifier(adata, adata.obs["cell_type"], max_epochs=1, lr=0.0, accelerator="cpu")
    assert any("calls every cell" in message for message in logged)


def test_what_cannot_be_classified_is_refused(make_adata):
    adata = make_adata(20, 60)
    model = sf.model.Celler(genes=adata.var_names, **TINY)
    with pytest.raises(ValueError, match=r"no classification head yet: model.train_classifier\("):
        model.predict_classes(adata)
    with pytest.raises(ValueError, match="at least 2 classes apart; the labels have 1"):
        model.train_classifier(adata, ["B cell"] * 20)


def test_gradients_come_back_the_same_part_by_part(make_adata):
    adata = make_adata(40, 60)
    model = sf.model.Celler(genes=adata.var_names, **TINY, dropout=0.0)
    model.module.train()
    parts = model.batch(adata.X)
    assert len(parts) > 1
    model.module.embed(parts)[:, 0].sum().backward()
    found = {name: p.grad.clone() for name, p in model.module.named_parameters() if p.grad is not None}
    model.module.zero_grad()
    whole = model._tokens(Cells.of(adata, model.genes, caller="test")).batch(np.arange(40), torch.device("cpu"))
    torch.nn.functional.normalize(model.module.cell_states(whole), dim=-1)[:, 0].sum().backward()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, model.module.get_parameter(name).grad, atol=1e-5, rtol=1e-4)


# ---- configuration -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n_hidden": 30}, "n_hidden=30 and n_heads=8"),
        ({"cls_value": 1}, "cls_value must be -2 .* or 0"),
        ({"n_bins": 2}, "n_bins must be from 3 to 513; got 2"),
        ({"ties": "first"}, "ties must be one of 'mid', 'low', 'high', 'random'"),
        ({"truncation": "last"}, "truncation must be one of 'expression', 'hvg', 'random'"),
        ({"max_length": 1}, "max_length must leave room"),
        ({"mask_ratio": (0.2, 1.0)}, "mask_ratio must lie between 0 and 1"),
        ({"n_classes": 2}, "n_classes=2 and 0 classes"),
    ],
)
def test_impossible_choices_are_refused(values, message):
    with pytest.raises(ValueError, match=f"Celler config: .*{message}"):
        sf.model.CellerConfig(**values)


# ---- official folders ----------------------------------------------------------------------------------------------

RELEASES = {"pretrained": "best_model.pt", "finetuned": "model.pt", "integration": "best_model.pt"}


@pytest.fixture(params=RELEASES)
def release(request, tmp_path):
    return shutil.copytree(OFFICIAL / request.param, tmp_path / request.param)


@pytest.fixture
def pretrained(tmp_path):
    return shutil.copytree(OFFICIAL / "pretrained", tmp_path / "pretrained")


def rewrite(folder, change):
    path = next(folder.glob("*model.pt"))
    content = torch.load(path, weights_only=True)
    torch.save(change(content) or content, path)


def rewrite_json(path, change):
    content = json.loads(path.read_text())
    path.write_text(json.dumps(change(content) or content))


def test_any_way_to_name_the_folder_loads_it(release):
    by_class, by_folder = sf.model.Celler.from_pretrained(release), sf.model.load_pretrained(str(release))
    assert equal(weights(by_class), weights(by_folder))
    assert by_folder.provenance["weights"] == release.name
    assert len(by_folder.provenance["sha256"]) == 64


def test_released_names_map_both_ways(release):
    model, released = sf.model.Celler.from_pretrained(release), read_release(release).tensors
    back = to_released(model.module)
    assert not back.keys() - released.keys()
    for name, tensor in back.items():
        assert torch.equal(tensor, released[name]), name
    left = {name.split(".")[0] for name in released.keys() - back.keys()}
    assert left <= {"flag_encoder", "dsbn", "cls_decoder"}
    assert equal(from_released(back, model.module, source="memory"), weights(model))


SPELLINGS = {
    "flash": lambda name: name,
    "wrapped": lambda name: name.replace(".self_attn.", ".self_attn._impl."),
    "torch": lambda name: name.replace(".Wqkv.", ".in_proj_"),
    "parallel": lambda name: f"module.{name}",
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_of_attention_is_read(pretrained, spelling):
    expected = weights(sf.model.Celler.from_pretrained(pretrained))
    rewrite(pretrained, lambda tensors: {SPELLINGS[spelling](name): t for name, t in tensors.items()})
    assert equal(weights(sf.model.Celler.from_pretrained(pretrained)), expected)


def test_two_spellings_of_one_tensor_are_refused():
    tensors = {name: torch.zeros(1) for name in ("a.self_attn.Wqkv.bias", "a.self_attn.in_proj_bias")}
    with pytest.raises(CheckpointError, match="names 1 tensors twice"):
        canonical(tensors, source="memory")


def test_a_vocabulary_may_leave_special_tokens_out_or_have_them_anywhere(pretrained, make_adata):
    adata = AnnData(np.ones((2, 3), dtype=np.float32), var=pd.DataFrame(index=["ALB", "CD4", "SST"]))
    expected = sf.model.Celler.from_pretrained(pretrained).get_latent_representation(adata, device="cpu")
    path = pretrained / "vocab.json"
    rewrite_json(path, lambda v: {name: n for name, n in v.items() if not name.startswith("<")})
    found = sf.model.Celler.from_pretrained(pretrained).get_latent_representation(adata, device="cpu")
    np.testing.assert_array_equal(found, expected)

    order = np.random.default_rng(0).permutation(80)
    place = np.argsort(order)
    vocabulary = json.loads((OFFICIAL / "pretrained" / "vocab.json").read_text())
    path.write_text(json.dumps({name: int(place[n]) for name, n in vocabulary.items()}))
    table = "encoder.embedding.weight"
    rewrite(pretrained, lambda tensors: tensors.update({table: tensors[table][torch.from_numpy(order)]}))
    found = sf.model.Celler.from_pretrained(pretrained).get_latent_representation(adata, device="cpu")
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_ensembl_ids_within_names_are_further_names(pretrained):
    rewrite_json(
        pretrained / "vocab.json",
        lambda v: {("ALB_ENSG00000999999" if name == "ALB" else name): n for name, n in v.items()},
    )
    genes = sf.model.Celler.from_pretrained(pretrained).genes
    assert genes.aliases == {"ENSG00000999999": "ALB_ENSG00000999999"}
    assert genes.ids[genes.align(["ENSG00000999999", "CD4"]).target[0]] == "ALB_ENSG00000999999"


def test_what_old_files_carry_along_is_left_aside(pretrained):
    expected = weights(sf.model.Celler.from_pretrained(pretrained))

    def carry(tensors):
        tensors |= {f"bn.{name}": torch.ones(32) for name in ("weight", "bias", "running_mean", "running_var")}
        tensors |= {"cls_decoder.out_layer.weight": torch.ones(1, 32), "cls_decoder.out_layer.bias": torch.ones(1)}

    rewrite(pretrained, carry)
    model = sf.model.Celler.from_pretrained(pretrained)
    assert equal(weights(model), expected)
    assert not model.config.n_classes


def test_classes_can_be_named_on_loading(tmp_path):
    names = [f"type {i}" for i in range(7)]
    model = sf.model.Celler.from_pretrained(OFFICIAL / "finetuned", classes=names)
    model.save_pretrained(tmp_path)
    assert sf.model.load_pretrained(tmp_path).config.classes == tuple(names)


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def without(*names):
    return lambda content: {name: value for name, value in content.items() if name not in names}


LAYER = "transformer_encoder.layers.0."
WRONG = {
    "truncated": (lambda f: cut(f / "best_model.pt"), "best_model.pt could not be read as a torch file"),
    "missing": (
        lambda f: rewrite(f, without(f"{LAYER}self_attn.Wqkv.weight")),
        r"does not fit CellerModule: 3 missing: layers.0.attention.key.weight",
    ),
    "no decoder": (lambda f: rewrite(f, without("decoder.fc.0.bias")), "1 missing: decoder.value.0.bias"),
    "extra": (lambda f: rewrite(f, lambda t: t.update(other=torch.zeros(2))), "1 unexpected: other"),
    "a layer more": (
        lambda f: rewrite(f, lambda t: t.update({LAYER.replace("0", "2") + "norm1.bias": torch.zeros(32)})),
        "1 unexpected: layers.2.attention_norm.bias",
    ),
    "reshaped": (
        lambda f: rewrite(f, lambda t: t.update({f"{LAYER}linear1.bias": torch.zeros(7)})),
        r"1 of another shape: layers.0.expand.bias \(7,\) instead of \(32,\)",
    ),
    "no thirds": (
        lambda f: rewrite(f, lambda t: t.update({f"{LAYER}self_attn.Wqkv.bias": torch.zeros(95)})),
        r"3 missing: .*1 unexpected: layers.0.self_attn.Wqkv.bias",
    ),
    "rows": (
        lambda f: rewrite(f, lambda t: t.update({"encoder.embedding.weight": torch.zeros(70, 32)})),
        r"genes.weight \(70, 32\) instead of \(80, 32\)",
    ),
    "not finite": (
        lambda f: rewrite(f, lambda t: t.update({"encoder.enc_norm.bias": torch.full((32,), torch.nan)})),
        "1 tensors hold NaN or infinite values: gene_norm.bias",
    ),
    "wrapped": (lambda f: rewrite(f, lambda t: {"model": t}), "holds more than tensors by name: model"),
    "args": (
        lambda f: rewrite_json(f / "args.json", without("nheads", "d_hid")),
        "args.json lacks nheads, d_hid: it does not describe",
    ),
    "args cut": (lambda f: cut(f / "args.json"), "args.json is damaged: .*Download it again"),
    "style": (
        lambda f: rewrite_json(f / "args.json", lambda a: a | {"input_emb_style": "category"}),
        "input_emb_style='category'; Celler reads models with input_emb_style='continuous'",
    ),
    "vocabulary cut": (lambda f: cut(f / "vocab.json"), "vocab.json is damaged: .*Download it again"),
    "numbers": (
        lambda f: rewrite_json(f / "vocab.json", lambda v: v | {"ALB": 200}),
        "vocab.json does not number its 80 tokens from 0 on",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_folders_that_are_damaged_or_foreign_are_refused(pretrained, wrong):
    damage, message = WRONG[wrong]
    damage(pretrained)
    with pytest.raises(CheckpointError, match=message):
        sf.model.Celler.from_pretrained(pretrained)


def test_batches_that_are_not_numbered_through_are_refused(tmp_path):
    folder = shutil.copytree(OFFICIAL / "integration", tmp_path / "integration")
    rewrite(folder, lambda t: {name.replace("dsbn.bns.0", "dsbn.bns.5"): value for name, value in t.items()})
    with pytest.raises(CheckpointError, match=r"domain_norm.mean of the batches \[1, 5\]"):
        sf.model.Celler.from_pretrained(folder)


def test_a_folder_without_weights_says_what_belongs_in_it(pretrained):
    (pretrained / "best_model.pt").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks best_model.pt or model.pt, parts of an official scGPT"):
        sf.model.Celler.from_pretrained(pretrained)


def test_bins_over_the_genes_of_an_official_folder(pretrained):
    adata = AnnData(np.array([[1, 2, 5]], dtype=np.float32), var=pd.DataFrame(index=["ALB", "CD4", "nobody"]))
    sf.pp.bin_expression(adata, genes=pretrained)
    genes = sf.model.Celler.from_pretrained(pretrained).genes
    bins = adata.obsm["X_binned"].toarray()[0]
    assert bins[genes.index_of(["ALB", "CD4"])].tolist() == [1, 50]
    assert np.count_nonzero(bins) == 2


def test_public_weights_are_listed_with_their_licences(tmp_path, monkeypatch):
    monkeypatch.setattr(sf.settings, "cache_dir", tmp_path)
    table = sf.model.list_pretrained()
    public = table[(table["model"] == "celler") & (table["source"] != "shipped")]
    assert {"scgpt-whole-human", "scgpt-kidney", "celler-lung"} <= set(public.index)
    assert set(public.loc[public.index.str.startswith("scgpt"), "licence"]) == {"MIT"}
    assert public.loc[public.index.str.startswith("celler"), "licence"].str.contains("academic").all()
    with pytest.raises(FileNotFoundError, match=r"bowang-lab/scGPT.*args.json, vocab.json, best_model.pt"):
        sf.model.load_pretrained("scgpt-whole-human")
    shutil.copytree(OFFICIAL / "pretrained", tmp_path / "scgpt-whole-human")
    model = sf.model.load_pretrained("scgpt-whole-human")
    assert model.provenance["licence"] == "MIT"


def test_a_reader_in_memory_is_as_good_as_a_file(make_adata):
    adata = make_adata(20, 60)
    model = sf.model.Celler(genes=adata.var_names, **TINY)
    cells = Cells.of(adata, model.genes, caller="test")
    in_memory = cells.with_counts(cells.read())
    assert isinstance(in_memory.reader, CountsInMemory)
    np.testing.assert_array_equal(model.embed(in_memory, CPU), model.embed(cells, CPU))
