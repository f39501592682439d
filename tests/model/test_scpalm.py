"""scPaLM: tokens that know no order of genes, what is learned in which stage, and what no embedding depends on."""

import numpy as np
import pytest
import torch
from cases import equal, weights
from scipy import sparse

import scfoundry as sf
from scfoundry._device import Compute
from scfoundry.data.matrix.cells import Cells
from scfoundry.data.matrix.log_normalisation import log_cp10k
from scfoundry.model._capabilities import TokenisesPathways, require
from scfoundry.model.scpalm._batch import Expression
from scfoundry.model.scpalm._config import ScPaLMConfig
from scfoundry.model.scpalm._embedding import PathwayEmbedding
from scfoundry.model.scpalm._module import STAGES
from scfoundry.model.scpalm._objectives import CellTokenLoss, PathwayTokenLoss, draw_places, hidden_genes
from scfoundry.model.scpalm._pseudo_labels import PseudoLabels, contrastive_loss

CPU = torch.device("cpu")
TINY = {"n_tokens": 6, "n_hidden": 16, "n_codes": 8, "n_layers": 1, "n_heads": 2, "n_intermediate": 16}
TINY |= {"n_value": 4, "n_gene": 4}
QUICK = {"max_epochs": 3, "batch_size": 20, "accelerator": "cpu"}
KINDS = [
    {},
    {"gene_projection": False},
    {"value_map": "mlp"},
    {"gene_pooling": "max"},
]


def trainable(adata, *, seed=0, **config):
    sf.model.ScPaLM.setup_anndata(adata)
    return sf.model.ScPaLM(adata, seed=seed, **(TINY | config))


def expression(n_cells=12, n_genes=30, *, seed=0, edges=True):
    """Log expression of some cells: one without genes, one with all of them."""
    rng = np.random.default_rng(seed)
    x = rng.gamma(2, 1, (n_cells, n_genes)) * (rng.random((n_cells, n_genes)) < 0.3)
    if edges:
        x[0], x[1] = 0, rng.gamma(2, 1, n_genes)
    return x


def batch(x):
    cells = Expression.of(sparse.csr_matrix(x), CPU)
    return cells._replace(values=torch.from_numpy(sparse.csr_matrix(x).data))


def embedding(n_genes=30, **config):
    torch.manual_seed(0)
    embedding = PathwayEmbedding(ScPaLMConfig(**(TINY | config)), n_genes).double()
    with torch.no_grad():
        embedding.alpha.normal_()
    return embedding


# ---- tokens --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", KINDS[:2])
def test_two_sparse_products_are_the_algorithm_gene_by_gene(config):
    tokens, x = embedding(**config), expression()
    fast = tokens.scalars(batch(x))
    torch.testing.assert_close(fast, tokens.literal(batch(x)), rtol=0, atol=1e-10)
    assert fast.std(0).min() > 1e-4
    gradients = [
        torch.autograd.grad(scalars.square().sum(), list(tokens.parameters()), allow_unused=True)
        for scalars in (tokens.scalars(batch(x)), tokens.literal(batch(x)))
    ]
    for found, expected in zip(*gradients, strict=True):
        assert (found is None) == (expected is None)
        if found is not None:
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def test_the_algorithm_is_what_the_paper_writes():
    """Cell by cell and gene by gene, with lists."""
    tokens, x = embedding(), expression(5)
    leaky = lambda v: torch.where(v > 0, v, 0.01 * v)  # noqa: E731
    for row, found in zip(x, tokens.literal(batch(x)), strict=True):
        members, absent = [], []
        for gene, value in enumerate(row):
            v = leaky(value * tokens.projection[gene])
            e = torch.cat([tokens.alpha[gene] * v + tokens.value_map(v), tokens.genes[gene]])
            weight = torch.cat([tokens.value_scalars.weight, tokens.gene_scalars.weight], 1)
            (members if value > 0 else absent).append(weight @ e + tokens.value_scalars.bias)
        if absent:
            members.append(torch.stack(absent).mean(0))
        torch.testing.assert_close(found, torch.stack(members).mean(0), rtol=0, atol=1e-10)


@pytest.mark.parametrize("config", KINDS)
def test_genes_in_another_order_with_their_parameters_give_the_same_tokens(config):
    tokens, x = embedding(**config), expression()
    expected = tokens(batch(x))
    order = np.random.default_rng(1).permutation(30)
    with torch.no_grad():
        for table in (tokens.projection, tokens.alpha, tokens.genes):
            if len(table) == 30:
                table.copy_(table[order].clone())
    torch.testing.assert_close(tokens(batch(x[:, order])), expected, rtol=0, atol=1e-10)


def test_genes_that_nobody_expresses_change_what_stands_for_the_absent_alone():
    tokens, x = embedding(), expression()
    more = embedding(40)
    with torch.no_grad():
        for name, parameter in tokens.named_parameters():
            of_more = more.get_parameter(name)
            of_more[:30].copy_(parameter) if name in ("projection", "alpha", "genes") else of_more.copy_(parameter)
    n = torch.from_numpy((x > 0).sum(1, keepdims=True))
    longer = np.hstack([x, np.zeros((12, 10))])
    presence, of_more = tokens.tables().presence, more.tables().presence
    absent = torch.from_numpy(x == 0).double() @ presence / (30 - n).clamp(min=1)
    absent_of_more = torch.from_numpy(longer == 0).double() @ of_more / (40 - n)
    sums = tokens.scalars(batch(x)) * (n + (n < 30)) - absent * (n < 30)
    torch.testing.assert_close(more.scalars(batch(longer)), (sums + absent_of_more) / (n + 1), rtol=0, atol=1e-10)


@pytest.mark.parametrize("config", KINDS)
def test_scalars_start_with_the_spread_of_the_first_batch_which_keeps_both_ways_equal(config):
    tokens, x = embedding(**config), expression(40, edges=False)
    tokens.start(batch(x))
    scalars = tokens.scalars(batch(x))
    torch.testing.assert_close(scalars.std(0, correction=0), torch.ones_like(scalars[0]))
    torch.testing.assert_close(tokens.literal(batch(x)), scalars, rtol=0, atol=1e-10)
    if tokens.is_linear:
        torch.testing.assert_close(scalars.mean(0), torch.zeros_like(scalars[0]), rtol=0, atol=1e-10)
    before = scalars.clone()
    tokens.start(batch(2 * x))
    torch.testing.assert_close(tokens.scalars(batch(x)), before)


def test_a_norm_sees_no_more_than_the_sign_of_a_scalar_without_offsets():
    """Why tokens have them, which the paper does not write."""
    scalars = torch.tensor([[0.5], [2.0]]).double()
    for token_offsets in (False, True):
        tokens = embedding(token_offsets=token_offsets)
        tokens.scalars = lambda cells, tables: scalars.expand(2, 6)
        first, second = torch.nn.functional.layer_norm(tokens(None), (16,))
        assert torch.allclose(first, second, atol=1e-3) == (not token_offsets)


# ---- what is learned -----------------------------------------------------------------------------------------------


def test_hidden_genes_are_those_of_the_tokens_that_were_left_out():
    kept = torch.tensor([[0, 2], [1, 3]])
    hidden = hidden_genes(kept, 4, 10)  # three genes per token, the last has one
    assert hidden.int().tolist() == [[0, 0, 0, 1, 1, 1, 0, 0, 0, 1], [1, 1, 1, 0, 0, 0, 1, 1, 1, 0]]
    assert not hidden_genes(torch.arange(4)[None], 4, 10).any()


def test_places_are_drawn_for_every_cell_without_replacement():
    torch.manual_seed(0)
    places = draw_places(500, 6, 3, CPU)
    assert (places.diff() > 0).all()
    assert ((torch.bincount(places.flatten(), minlength=6) / 1500 - 1 / 6).abs() < 0.03).all()


def stage_two(adata, **config):
    """Loss of stage 2 with two clusters of cells that are known."""
    model = trainable(adata, **config)
    cells = Cells.of(adata, model.genes, caller="test")
    labels = PseudoLabels(model.config, 0)
    one_batch = np.zeros(adata.n_obs, dtype=np.int64)
    return model, CellTokenLoss(model.module.train(), cells.reader, one_batch, labels), np.arange(adata.n_obs)


def test_the_error_of_kept_genes_does_not_count(make_adata):
    model, loss, rows = stage_two(make_adata(20, 60), contrastive_weight=0.0)
    places = {}
    view = loss.view
    loss.view = lambda tokens: places.setdefault("first", view(tokens))
    torch.manual_seed(0)
    expected = loss(rows, 0)["loss"]
    hidden = hidden_genes(places["first"].places, 6, 60)
    decoder = model.module.cell_decoder
    for genes, moves in ((hidden, True), (~hidden, False)):
        decoder.forward = lambda *shown, genes=genes: type(decoder).forward(decoder, *shown) + 100 * genes
        torch.manual_seed(0)
        assert (not torch.allclose(loss(rows, 0)["loss"], expected)) == moves


@pytest.mark.parametrize("exclude", [False, True])
def test_reconstruction_teaches_the_cell_token_unless_the_decoder_is_not_shown_it(make_adata, exclude):
    model, loss, _ = stage_two(make_adata(20, 60), exclude_cell_token=exclude)
    view = loss.view(torch.randn(4, 6, 16))
    cell = view.cell.detach().requires_grad_()
    model.module.cell_decoder(view._replace(cell=cell)).square().sum().backward()
    assert (cell.grad is None or not cell.grad.any()) == exclude


def test_contrast_is_with_cells_of_other_clusters_only():
    torch.manual_seed(0)
    first, second = torch.randn(2, 5, 8, dtype=torch.float64)
    labels = torch.tensor([0, 0, 1, 1, 2])
    unit = lambda x: x / x.norm(dim=1, keepdim=True)  # noqa: E731
    expected = 0
    for i in range(5):
        positive = (unit(first)[i] @ unit(second)[i] / 0.1).exp()
        negatives = sum((unit(first)[i] @ unit(first)[j] / 0.1).exp() for j in range(5) if labels[j] != labels[i])
        expected -= (positive / (positive + negatives)).log() / 5
    how = {"temperature": 0.1, "max_negatives": 64}
    torch.testing.assert_close(contrastive_loss(first, second, labels, **how).double(), expected, rtol=1e-5, atol=0)
    assert contrastive_loss(first, second, torch.zeros(5), **how) == 0
    assert contrastive_loss(first, second, None, **how) == 0
    fewer = contrastive_loss(first, second, labels, temperature=0.1, max_negatives=1)
    assert 0 < fewer < expected


def test_clusters_wait_for_enough_cells_and_are_found_anew_once_in_a_while():
    config = ScPaLMConfig(**TINY, n_clusters=3, queue_size=40, refit_every=4)
    labels, generator = PseudoLabels(config, 0), torch.Generator().manual_seed(0)
    centres = 4 * torch.randn(3, 16, generator=generator)
    cells = lambda n: centres[torch.arange(n) % 3] + 0.1 * torch.randn(n, 16, generator=generator)  # noqa: E731
    labels.refit(10)
    assert labels.assign(cells(9)) is None
    for _ in range(3):
        labels.push(cells(10))
        labels.refit(10)
    found = labels.assign(cells(9))
    assert found.view(3, 3).eq(found[:3]).all()
    assert len(found.unique()) == 3
    centres_before = labels.centres.clone()
    labels.push(-cells(10))
    labels.refit(10)
    assert labels.fitted
    assert not torch.equal(labels.centres, centres_before)
    centres_before = labels.centres.clone()
    labels.push(cells(10))
    labels.refit(10)
    assert torch.equal(labels.centres, centres_before)
    again = PseudoLabels(config, 0)
    again.load_state_dict(labels.state_dict())
    assert torch.equal(again.assign(cells(9)), labels.assign(cells(9)))
    # The oldest leave first.
    labels.push(torch.ones(37, 16))
    assert (labels.queue == 0.25).all(1).sum() == 37


def test_training_learns_in_both_stages_and_the_second_leaves_the_first_as_it_was(make_adata):
    adata = make_adata(80, 60)
    model = trainable(adata)
    first = weights(model)
    model.train(stage=1, **QUICK | {"max_epochs": 15, "lr": 3e-3})
    assert {"loss_train", "reconstruction_validation", "perplexity_train", "quantiser_train"} <= set(model.history)
    explained = model.history["explained_variance_train"].iloc[:, 0]
    assert explained.iloc[-1] > explained.iloc[0] + 0.05
    after_one = weights(model)
    of_two = tuple(f"{part}." for part in STAGES[2])
    for name, value in after_one.items():
        if name.startswith(of_two):
            assert torch.equal(value, first[name]), name
    model.train(stage=2, **QUICK | {"max_epochs": 6, "lr": 3e-3})
    changed = {name for name, value in weights(model).items() if not torch.equal(value, after_one[name])}
    assert changed
    assert all(name.startswith(of_two) for name in changed)
    assert "contrastive_train" in model.history
    assert all(parameter.requires_grad for parameter in model.module.parameters())


def test_reconstruction_starts_at_the_means_of_every_batch_and_uses_their_average_elsewhere(make_adata):
    adata = make_adata(40, 60)
    sf.model.ScPaLM.setup_anndata(adata, batch_key="batch")
    model = sf.model.ScPaLM(adata, **TINY)
    assert model.config.n_batches == 2
    model.train(**QUICK | {"max_epochs": 1, "lr": 0.0})
    log = log_cp10k(adata.X).toarray()
    batches = adata.obs["batch"].to_numpy()
    means = np.array([log[batches == name].mean(0) for name in dict.fromkeys(batches)])
    for decoder in (model.module.decoder, model.module.cell_decoder.decoder):
        np.testing.assert_allclose(decoder.means.detach().numpy(), means, atol=1e-5)
    tokens = torch.randn(2, 6, 16)
    with torch.no_grad():
        of_batches = model.module.decoder(tokens, batches=torch.tensor([1, 0]))
        elsewhere = model.module.decoder(tokens)
    np.testing.assert_allclose(of_batches - elsewhere, means[::-1] - means.mean(0), atol=1e-5)


def test_both_stages_in_one_call_are_one_after_the_other(make_adata):
    adata = make_adata(50, 60)
    together, apart = trainable(adata), trainable(adata)
    together.train(**QUICK | {"max_epochs": (2, 1)})
    apart.train(stage=1, **QUICK | {"max_epochs": 2})
    apart.train(stage=2, **QUICK | {"max_epochs": 1})
    assert equal(weights(together), weights(apart))


@pytest.mark.parametrize("stage", [1, 2])
def test_interrupted_training_goes_on_to_the_same_weights(make_adata, tmp_path, stage):
    adata = make_adata(60, 60)
    config = {"replace_every": 2, "n_clusters": 2, "refit_every": 3, "queue_size": 40}
    whole, first, second = (trainable(adata, **config) for _ in range(3))
    how = QUICK | {"schedule": "constant", "warmup_steps": 0}
    whole.train(**how | {"max_epochs": (3, 3)})
    epochs = (2, 1) if stage == 1 else (3, 2)
    first.train(checkpoint_dir=tmp_path, stage=None if stage == 2 else 1, **how | {"max_epochs": epochs})
    second.train(checkpoint_dir=tmp_path, **how | {"max_epochs": (3, 3)})
    assert not equal(weights(first), weights(whole))
    assert equal(weights(second), weights(whole))


def test_losses_are_finite_for_empty_cells_one_cluster_and_fewer_genes_than_tokens(make_adata, logged):
    adata = make_adata(30, 5)
    adata.X = sparse.csr_matrix(np.vstack([adata.X.toarray()[:-2], np.zeros((2, 5))]).astype(np.float32))
    model = trainable(adata, n_clusters=1, queue_size=20)
    assert any(m.startswith("5 genes are too few for 6 tokens: 1 of them") and "n_tokens=5" in m for m in logged)
    model.train(**QUICK)
    assert any("without a gene" in m for m in logged)
    assert all(np.isfinite(frame.to_numpy(float)).all() for frame in model.history.values())
    cells = Cells.of(adata, model.genes, caller="test")
    rows = np.array([28, 29])  # no genes at all
    one_batch = np.zeros(30, dtype=np.int64)
    for loss in (PathwayTokenLoss(model.module, cells.reader, one_batch), stage_two(adata, n_clusters=1)[1]):
        assert all(torch.isfinite(value) for value in loss(rows, 0).values())
    assert np.isfinite(model.get_latent_representation(adata)).all()


def test_without_encoder_or_quantiser(make_adata):
    """The ablations of the paper."""
    adata = make_adata(40, 60)
    for config in ({"encoder": False}, {"quantiser": False}, {"encoder": False, "quantiser": False}):
        model = trainable(adata, **config)
        model.train(**QUICK)
        assert np.isfinite(model.get_latent_representation(adata)).all()
    with pytest.raises(ValueError, match=r"have no codebook: quantiser=False left it out.*quantiser=True"):
        require(model, TokenisesPathways, caller="sf.tl.pathway_tokens")


@pytest.mark.parametrize(("pooling", "width"), [("cell", 16), ("mean", 16), ("concatenated", 96)])
def test_what_embeds_a_cell(make_adata, pooling, width):
    adata = make_adata(20, 60)
    model = sf.model.ScPaLM(genes=adata.var_names, pooling=pooling, **TINY)
    latent = model.get_latent_representation(adata)
    assert latent.shape == (20, width)
    if pooling == "mean":
        counts = Cells.of(adata, model.genes, caller="test").read()
        codes = model.pathway_codes(counts, Compute.resolve("cpu"))
        codebook = model.module.quantiser.codebook().detach().numpy()
        np.testing.assert_allclose(latent, codebook[codes].mean(1), atol=1e-5)


def test_reconstruction_is_of_what_is_given_and_not_normalised_again(make_adata):
    adata = make_adata(20, 60)
    model = trainable(adata)
    model.train(stage=1, **QUICK)
    log = log_cp10k(adata.X)
    expected = model.module.reconstruct(Expression.of_counts(adata.X, CPU)).detach().numpy()
    np.testing.assert_allclose(model.reconstruct(log, Compute.resolve("cpu")), expected, atol=1e-5)
    hidden = log.copy()
    hidden.data[::10] = 0
    hidden.eliminate_zeros()
    with torch.no_grad():
        direct = model.module.reconstruct(Expression.of(hidden, CPU)).numpy()
    np.testing.assert_allclose(model.reconstruct(hidden, Compute.resolve("cpu")), direct, atol=1e-5)


# ---- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"n_hidden": 10, "n_heads": 4}, r"n_hidden must be a multiple of n_heads=4, such as 8; got 10"),
        ({"commitment": 2}, r"commitment must be a finite number from 0 to 1; got 2"),
        ({"kept_share": 0}, r"kept_share is a share of the tokens, above 0 and at most 1; got 0"),
        ({"temperature": 0}, r"temperature must be a finite number above 0; got 0"),
        ({"n_codes": 0}, r"n_codes must be a whole number of at least 1; got 0"),
        ({"replace_every": -1}, r"replace_every must be a whole number of at least 0; got -1"),
        (
            {"exclude_cell_token": True, "contrastive_weight": 0},
            r"learns from the contrast alone.*Use a weight above 0",
        ),
        ({"value_map": "cubic"}, r"value_map must be one of 'linear', 'mlp'; got 'cubic'"),
    ],
)
def test_impossible_values_are_refused_with_those_that_are_not(config, message):
    with pytest.raises(ValueError, match=message):
        ScPaLMConfig(**config)


def test_there_are_two_stages(make_adata):
    with pytest.raises(ValueError, match=r"stage must be one of 1, 2 or None; got 3"):
        trainable(make_adata(20, 60)).train(stage=3)


@pytest.mark.parametrize("values", ["scaled", "negative"])
def test_what_is_no_expression_is_refused(make_adata, values):
    adata = make_adata(20, 60)
    model = sf.model.ScPaLM(genes=adata.var_names, **TINY)
    adata.X = adata.X.toarray() - (0.3 if values == "scaled" else 1)
    with pytest.raises(ValueError, match=r"counts"):
        model.get_latent_representation(adata)
