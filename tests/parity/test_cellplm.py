"""CellPLM computes what the released code computed: every array of the fixtures, from the official files."""

import json
from functools import cached_property
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from torch.nn import functional as F

import scfoundry as sf
from scfoundry.model.cellplm._checkpoint import read_release
from scfoundry.model.cellplm._latent import GaussianSample
from scfoundry.model.cellplm._objectives import reconstruction_loss
from scfoundry.model.cellplm._positions import position_code
from scfoundry.nn.counts import SparseCounts
from scfoundry.nn.heads import MLPHead
from scfoundry.nn.negative_binomial import negative_binomial_loss

LATENTS = ["gmvae", "vae"]


class Fixture:
    """One folder of the fixtures, with the model that its official files give."""

    def __init__(self, folder):
        self.folder = folder
        self.inputs = dict(np.load(folder / "inputs.npz"))
        self.expected = dict(np.load(folder / "expected.npz"))
        self.consumed = set()
        x = self.inputs
        self.csr = csr_matrix((x["x_data"], x["x_indices"], x["x_indptr"]), shape=x["x_shape"])

    @cached_property
    def model(self):
        return sf.model.CellPLM.from_pretrained(self.folder)

    @cached_property
    def module(self):
        return self.model.module

    def tensor(self, name):
        return torch.from_numpy(self.inputs[name])

    @cached_property
    def counts(self):
        return SparseCounts.from_csr(self.csr)

    @cached_property
    def subset_counts(self):
        """The restricted input, its columns put back where the vocabulary has them."""
        columns = self.inputs["subset_idx"]
        restricted = self.csr[:, columns].tocoo()
        aligned = csr_matrix((restricted.data, (restricted.row, columns[restricted.col])), shape=self.csr.shape)
        return SparseCounts.from_csr(aligned)

    def check(self, name, got):
        self.consumed.add(name)
        got = got.detach().numpy() if isinstance(got, torch.Tensor) else np.asarray(got)
        expected = self.expected[name]
        assert got.shape == expected.shape, name
        np.testing.assert_allclose(got, expected, atol=1e-5, rtol=1e-4, err_msg=name)


@pytest.fixture(scope="module", params=LATENTS)
def fixture(request, parity_folder):
    return Fixture(parity_folder("cellplm") / request.param)


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


def compares(test):
    """Whether a test compares arrays of the fixtures."""
    return "check" in test.__code__.co_names


def embed(f, counts, coordinates=None, **noise):
    u = f.module.encode(counts.log_normalised(), coordinates)
    return f.module.latent.embedding(u, **noise)


@pytest.fixture
def released_noise(fixture):
    """The mixture's released embedding is noisy; the fixtures hold the draws."""
    return {"uniform": fixture.tensor("gumbel_uniform")} if fixture.model.config.latent == "gmvae" else {}


@pytest.fixture
def full(fixture, released_noise):
    return embed(fixture, fixture.counts, **released_noise)


def test_encoder_states(fixture):
    module = fixture.module
    expression = fixture.counts.log_normalised()
    fixture.check("full/gene_aggregate", module.embedder.aggregate(expression))
    h = module.embedder(expression)
    fixture.check("full/embedder_out", h)
    for i, layer in enumerate(module.layers):
        fixture.check(f"full/attn_{i}_out", layer.attention(layer.norm1(h)))
        h = layer(h)
        fixture.check(f"full/layer_{i}_out", h)
    fixture.check("full/pre_latent_norm_out", module.norm(h))


def test_embeddings_of_cells_genes_and_contexts(fixture, released_noise, full):
    fixture.check("full/embedding", full)
    fixture.check("full/embedding_embedder_head", full)
    coordinates = fixture.tensor("coords")
    fixture.check("full_coords/embedding", embed(fixture, fixture.counts, coordinates, **released_noise))
    fixture.check("subset/embedding", embed(fixture, fixture.subset_counts, **released_noise))
    n = int(fixture.inputs["n_context"])
    first = {name: draws[:n] for name, draws in released_noise.items()}
    fixture.check("context/embedding", embed(fixture, SparseCounts.from_csr(fixture.csr[:n]), **first))


def test_counts_scaled_to_ten_thousand(fixture, released_noise):
    u = fixture.module.encode(fixture.counts.log_normalised("cp10k"))
    fixture.check("cp10k/embedding", fixture.module.latent.embedding(u, **released_noise))


def test_decoder_with_and_without_labels(fixture, full):
    decoder, batch, dataset = fixture.module.decoder, fixture.tensor("batch"), fixture.tensor("dataset")
    mean, dispersion = decoder(full, batch=batch, dataset=dataset)
    fixture.check("full/nb_mean", mean)
    fixture.check("full_coords/nb_mean", mean)
    fixture.check("full/nb_disp", dispersion.expand_as(mean))
    fixture.check("nolabel/nb_mean", decoder(full)[0])
    fixture.check("batch_only/nb_mean", decoder(full, batch=batch)[0])


def test_positions_as_the_paper_has_them(fixture, released_noise):
    width = fixture.model.config.n_hidden
    coordinates = fixture.tensor("coords")
    fixture.check("pe_lookup", position_code(coordinates, width))
    model = sf.model.CellPLM.from_pretrained(fixture.folder, positions="sinusoid")
    expression = fixture.counts.log_normalised()
    for name, xy in (("pe_on_nocoord", None), ("pe_on_coord", coordinates)):
        embedder = model.module.embedder
        fixture.check(f"{name}/after_pe", embedder.aggregate(expression) + embedder.position(xy))
        u = model.module.encode(expression, xy)
        fixture.check(f"{name}/embedding", model.module.latent.embedding(u, **released_noise))


def test_position_table_of_the_file_is_the_sinusoid(fixture):
    table = read_release(fixture.folder)[2]["embedder.pe_enc.pe_enc.weight"]
    x, y = torch.meshgrid(torch.arange(100), torch.arange(100), indexing="ij")
    centres = torch.stack([x, y], -1).flatten(0, 1) / 100 + 0.005
    codes = position_code((centres + 0.01) / 1.02, table.shape[1])
    torch.testing.assert_close(codes, table, atol=1e-5, rtol=1e-4)


def masked_states(f):
    return f.module.encode(f.counts.log_normalised().without(f.tensor("mask")))


def latent_loss(f, u):
    """Latent loss as evaluation returns it."""
    latent = f.module.latent
    if f.model.config.latent == "vae":
        return latent.loss(latent.sample(u, noise=f.tensor("gauss_noise")), step=0)
    draws = {"uniform": f.tensor("gumbel_uniform"), "noise": f.tensor("gauss_noise")}
    return latent.loss(latent.sample(u, **draws, soft=False), step=0)


def test_masked_expression(fixture, released_noise):
    u = masked_states(fixture)
    z = fixture.module.latent.embedding(u, **released_noise)
    fixture.check("mlm/embedding", z)
    mean, dispersion = fixture.module.decoder(z, batch=fixture.tensor("batch"), dataset=fixture.tensor("dataset"))
    fixture.check("mlm/nb_mean", mean)

    mask, counts = fixture.tensor("mask"), fixture.counts
    recon = reconstruction_loss(counts, mean, dispersion, mask, masked_term=False)
    fixture.check("mlm/loss_recon_eval", recon)
    fixture.check("mlm/loss_recon_dae", reconstruction_loss(counts, mean, dispersion, mask))
    latent = latent_loss(fixture, u)
    fixture.check("mlm/loss_latent_eval", latent)
    fixture.check("mlm/loss_total_eval", recon + latent)
    fixture.check("mlm/loss_denoise_nb", negative_binomial_loss(counts, mean, dispersion)[0].mean())

    genes = fixture.tensor("gene_mask").nonzero().squeeze(1)
    restricted = reconstruction_loss(counts, mean[:, genes], dispersion[genes], mask, genes=genes, masked_term=False)
    fixture.check("mlm/loss_recon_eval_genemask", restricted)


@pytest.mark.parametrize("case", ["genemask", "allgenes"])
def test_imputation(fixture, released_noise, case):
    genes = fixture.tensor("subset_idx")
    measured = fixture.tensor("impute_gene_mask") if case == "genemask" else torch.ones(len(genes), dtype=torch.bool)
    u = fixture.module.encode(fixture.subset_counts.log_normalised())
    z = fixture.module.latent.embedding(u, **released_noise)
    mean, dispersion = fixture.module.decoder(z, genes=genes)
    loss, factor = negative_binomial_loss(
        fixture.subset_counts, mean[:, measured], dispersion[measured], genes=genes[measured]
    )
    fixture.check(f"impute/pred_{case}", mean * factor[:, None])
    fixture.check(f"impute/loss_nb_{case}", loss.mean())
    fixture.check(f"impute/loss_{case}", loss.mean() + latent_loss(fixture, u))


def test_latent_internals(fixture):
    latent = fixture.module.latent
    u = fixture.module.encode(fixture.counts.log_normalised())
    noise = fixture.tensor("gauss_noise")
    fixture.check("full/latent_loss", latent_loss(fixture, u))
    if fixture.model.config.latent == "vae":
        sample = latent.sample(u, noise=noise)
        fixture.check("full/vae_mu", sample.mean)
        fixture.check("full/vae_sigma", sample.variance.sqrt())
        fixture.check("full/vae_z_train", sample.z)
        fixture.check("full/vae_kl_weight1", latent.kl(sample))
        fixture.check("full/vae_train_kl_first4calls", [latent.loss(sample, step) for step in range(4)])
        fixture.check("full/vae_train_kl_at_weight_half", latent.loss(sample, 5_000))
        return
    uniform = fixture.tensor("gumbel_uniform")
    fixture.check("full/gmvae_logits", latent.logits(u))
    for prefix, soft in (("full/gmvae_", False), ("full/gmvae_soft_", True)):
        sample = latent.sample(u, uniform=uniform, noise=noise, soft=soft)
        fixture.check(f"{prefix}categorical", sample.categorical)
        fixture.check(f"{prefix}mean", sample.mean)
        fixture.check(f"{prefix}var", sample.variance)
        fixture.check(f"{prefix}gaussian", sample.z)
        prior, categorical = latent.terms(sample)
        fixture.check(f"{prefix}loss_gauss_raw", prior)
        if not soft:
            fixture.check("full/gmvae_prob_cat", sample.probabilities)
            fixture.check("full/gmvae_y_mean", sample.prior_mean)
            fixture.check("full/gmvae_y_var", sample.prior_variance)
            fixture.check("full/gmvae_loss_cat_raw", categorical)
    fixture.check("full/gmvae_mean_argmax", latent.embedding(u))
    mean, variance = latent.prior(torch.eye(fixture.model.config.n_clusters))
    fixture.check("full/prior_mean", mean)
    fixture.check("full/prior_var", variance)


def test_annotation_head(fixture):
    """The fine-tuning model: a linear latent and one linear layer, on the pre-trained encoder."""
    head_in = fixture.tensor("annot/latent.layers.1.lat_2lat.0.weight")
    head = MLPHead(head_in.shape[0], int(fixture.inputs["n_classes"]))
    head.load_state_dict(
        {f"layers.0.{part}": fixture.tensor(f"annot/head.mlp.1.{part}") for part in ("weight", "bias")}
    )
    u = fixture.module.encode(fixture.counts.log_normalised())
    z = F.linear(u, head_in, fixture.tensor("annot/latent.layers.1.lat_2lat.0.bias"))
    fixture.check("annot/latent", z)
    scored = fixture.tensor("annot/loss_mask")
    logits = head(z)[scored]
    fixture.check("annot/logits_masked_cells", logits)
    fixture.check("annot/ce_loss", F.cross_entropy(logits, fixture.tensor("annot/label")[scored]))
    fixture.check("annot/pred", logits.argmax(-1))


def test_every_expected_array_was_compared(fixture, request):
    """What the comparisons above have looked at, where all of them ran."""
    comparisons = {name for name, test in vars(request.module).items() if name.startswith("test_") and compares(test)}
    ran = {item.originalname for item in request.session.items if item.module is request.module}
    if not comparisons <= ran:
        pytest.skip(f"not selected: {', '.join(sorted(comparisons - ran))}")
    assert fixture.consumed == set(fixture.expected)


def test_kl_is_zero_for_the_prior_itself():
    """The closed form has its zero where it must."""
    latent = sf.model.CellPLM(genes=[f"ENSG{i:011d}" for i in range(8)], n_hidden=16, n_latent=4).module.latent
    standard = GaussianSample(torch.zeros(3, 4), torch.ones(3, 4), torch.zeros(3, 4))
    assert latent.kl(standard) == 0


def test_official_config_is_read_completely(fixture):
    released = json.loads(next(fixture.folder.glob("*.config.json")).read_text())
    config = SimpleNamespace(**released)
    ours = fixture.model.config
    assert (ours.n_hidden, ours.n_layers, ours.n_latent) == (config.enc_hid, config.enc_layers, config.post_latent_dim)
    assert fixture.model.genes.ids.tolist() == config.gene_list
