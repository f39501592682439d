"""Codes of cells and the genes that go with them: the published association, planted programmes, what plays no part."""

from __future__ import annotations

from functools import partialmethod

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from cases import SmallModel, SmallTokeniser
from scipy import sparse
from scipy.stats import false_discovery_control, norm

from scfoundry._device import Compute
from scfoundry.data.matrix.cells import Cells
from scfoundry.tasks.pathway_tokens.association import associate
from scfoundry.tasks.pathway_tokens.ranking import rank_genes

CPU = Compute.resolve("cpu")
N_PROGRAMMES, N_GENES = 4, 12


@pytest.fixture(scope="module")
def model(make_adata):
    return SmallTokeniser(make_adata(n_vars=40).var_names)


@pytest.fixture
def adata(make_adata):
    """Cells, one without counts, over five genes more than the model knows; a gene that it knows is never on."""
    cells = make_adata(50, 45)
    dense = cells.X.toarray()
    dense[7], dense[:, 3] = 0, 0
    cells.X = sparse.csr_matrix(dense)
    return cells


class Given(SmallModel):
    """Writes cells, which come in the order of their names, as a test wants it."""

    def __init__(self, genes, codes, n_codes):
        super().__init__(genes)
        self.codes, self.n_codes, self.at = codes, n_codes, 0

    def pathway_codes(self, counts, compute):
        self.at += counts.shape[0]
        return self.codes[self.at - counts.shape[0] : self.at]


def opened(adata, model):
    return Cells.of(adata, model.genes, caller="test")


def log_expression(adata, model):
    """Of the genes of the model, (n, G)."""
    counts = adata[:, list(model.genes.ids)].X.toarray().astype(float)
    return np.log1p(1e4 * counts / np.maximum(counts.sum(1, keepdims=True), 1))


def ranked(association, genes, **how):
    codes, names = [f"code_{i}" for i in range(association.f.shape[1])], [f"gene {i}" for i in genes]
    how = {"n_top_genes": 5, "rank_by": "correlation", "max_q": 1.0} | how
    return rank_genes(association, genes, codes=codes, names=names, **how)


# ---- the association -----------------------------------------------------------------------------------------------


def test_shares_are_the_published_association_cell_by_cell(adata, model):
    frequencies, found = associate(model, opened(adata, model), compute=CPU)
    x = log_expression(adata, model)
    association = np.zeros((6, 40))
    for i, cell in enumerate(x):
        if not cell.any():
            continue
        codes = model.pathway_codes(sparse.csr_matrix(np.expm1(cell)), CPU)[0]
        assert len(codes) == 8
        for code in set(codes):
            frequency = np.mean(codes == code)
            assert frequencies[i, code] == pytest.approx(frequency)
            association[code] += frequency * cell
    totals = association.sum(0)
    expected = np.divide(association, totals, out=np.zeros_like(association), where=totals > 0)
    np.testing.assert_allclose(found.shares, expected, atol=1e-12)
    # Of a gene that is never on all shares are 0, of others they sum to 1.
    np.testing.assert_allclose(found.shares.sum(0), np.arange(40) != 3)


def test_frequencies_sum_to_one_and_are_missing_of_a_cell_without_genes(adata, model):
    frequencies, found = associate(model, opened(adata, model), compute=CPU)
    assert frequencies.dtype == np.float32
    filled = np.arange(50) != 7
    np.testing.assert_array_equal(np.isnan(frequencies), np.repeat(~filled, 6).reshape(50, 6))
    np.testing.assert_allclose(frequencies[filled].sum(1), 1)
    assert found.n_cells == 49
    np.testing.assert_allclose(found.usage, frequencies[filled].mean(0), rtol=1e-6)
    np.testing.assert_array_equal(found.n_using, (frequencies > 0).sum(0))
    np.testing.assert_array_equal(found.n_expressed, (log_expression(adata, model) > 0).sum(0))


def test_correlations_are_those_of_pearson(adata, model):
    frequencies, found = associate(model, opened(adata, model), compute=CPU)
    filled = np.arange(50) != 7
    f, x = frequencies[filled].astype(float), log_expression(adata, model)[filled]
    assert np.ptp(f, axis=0)[:5].min() > 0
    used, on = np.arange(5), np.delete(np.arange(40), 3)
    expected = np.corrcoef(f[:, used].T, x[:, on].T)[:5, 5:]
    np.testing.assert_allclose(found.correlation[np.ix_(used, on)], expected, atol=1e-9)
    assert (found.correlation[5] == 0).all()
    assert (found.correlation[:, 3] == 0).all()
    # The same sign as that of the share over the mean.
    above = (found.shares - found.usage[:, None])[:, on]
    clear = np.abs(above) > 1e-9
    np.testing.assert_array_equal(np.sign(above[clear]), np.sign(found.correlation[:, on][clear]))


def test_p_values_are_those_of_tokens_dealt_to_cells_at_random(make_adata):
    """Common and rare codes and genes: 20,000 permutations say the same."""
    rng, n = np.random.default_rng(0), 60
    adata = make_adata(n)
    dense = adata.X.toarray()
    dense[:, :10] *= rng.random((n, 10)) < 0.08
    dense[:, 0] += np.arange(n) < 3
    adata.X = sparse.csr_matrix(dense)
    adata.obs_names = [f"cell {i:02d}" for i in range(n)]
    codes = np.where(rng.random((n, 8)) < 0.6, 0, 1)
    codes[:4, :3] = 2
    given = Given(adata.var_names, codes, 3)
    frequencies, found = associate(given, opened(adata, given), compute=CPU)
    f, x = (values - values.mean(0) for values in (frequencies.astype(float), log_expression(adata, given)))
    f, x = (values / np.maximum(np.linalg.norm(values, axis=0), 1e-9) for values in (f, x))
    as_high = np.zeros((3, 40))
    for _ in range(20_000):
        as_high += f[rng.permutation(n)].T @ x >= found.correlation - 1e-9
    shares = as_high / 20_000
    clear = (shares < 0.2) & (shares > 0.002)
    assert clear.sum() > 10
    assert np.abs(np.log10(found.p_values[clear] / shares[clear])).max() < 0.4


@pytest.mark.parametrize("size", [1, 7, 50])
def test_the_size_of_blocks_plays_no_part(adata, model, size, monkeypatch):
    whole = associate(model, opened(adata, model), compute=CPU)
    monkeypatch.setattr(Cells, "blocks", partialmethod(Cells.blocks, size))
    parts = associate(model, opened(adata, model), compute=CPU)
    np.testing.assert_array_equal(parts[0], whole[0])
    for one, other in zip(vars(parts[1]).values(), vars(whole[1]).values(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)


def test_the_order_of_cells_plays_no_part(adata, model):
    frequencies, found = associate(model, opened(adata, model), compute=CPU)
    order = np.random.default_rng(1).permutation(50)
    moved, again = associate(model, opened(adata[order].copy(), model), compute=CPU)
    np.testing.assert_array_equal(moved, frequencies[order])
    np.testing.assert_array_equal(again.fx, found.fx)
    np.testing.assert_array_equal(again.x, found.x)


@pytest.mark.parametrize(("codes", "perplexity"), [([0, 1, 2, 3], 4), ([1, 1, 1, 1], 1), ([0, 0, 2, 2], 2)])
def test_perplexity_says_how_many_codes_are_used(make_adata, codes, perplexity):
    adata = make_adata(5)
    given = Given(adata.var_names, np.tile(codes, (5, 1)), 4)
    _, found = associate(given, opened(adata, given), compute=CPU)
    assert found.perplexity == pytest.approx(perplexity)


# ---- genes of codes ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def planted():
    """Cells with programmes of 12 genes, each written by a code, and a fifth code that goes with nothing."""
    rng = np.random.default_rng(0)
    n, n_genes = 300, 400
    activity = rng.gamma(0.3, size=(n, N_PROGRAMMES))
    members = np.zeros((N_PROGRAMMES, n_genes))
    for i in range(N_PROGRAMMES):
        members[i, i * N_GENES : (i + 1) * N_GENES] = 4
    rates = rng.lognormal(sigma=1, size=n_genes) * (1 + activity @ members)
    # Most genes of no programme are rare.
    rates[:, 100:] *= 0.003
    counts = rng.poisson(2000 * rates / rates.sum(1, keepdims=True))
    shares = np.c_[activity, np.full(n, 0.3)]
    codes = np.array([rng.choice(N_PROGRAMMES + 1, size=32, p=share / share.sum()) for share in shares])
    names = [f"GENE{i:03d}" for i in range(n_genes)]
    adata = AnnData(sparse.csr_matrix(counts.astype(np.float32)), var=pd.DataFrame(index=names))
    adata.obs_names = [f"cell {i:03d}" for i in range(n)]
    given = Given(names, codes, N_PROGRAMMES + 1)
    return associate(given, opened(adata, given), compute=CPU)[1]


def hits(table):
    """Share of the listed genes of every code that are of its programme."""
    of_code, of_gene = table["code"].str[5:].astype(int), table["gene"].str[5:].astype(int)
    programmes = of_code < N_PROGRAMMES
    return (of_gene // N_GENES == of_code)[programmes].groupby(of_code[programmes]).mean()


def test_codes_find_the_programmes_that_they_write(planted):
    genes = np.flatnonzero(planted.n_expressed >= 10)
    table, top = ranked(planted, genes, n_top_genes=10, max_q=0.05)
    assert (table["rank"] == table.groupby("code").cumcount() + 1).all()
    assert len(hits(table)) == N_PROGRAMMES
    assert hits(table).min() == 1
    for label, of_code in top.items():
        assert [f"gene {i}" for i in genes[of_code]] == sorted(
            table["gene"][table["code"] == label], key=lambda name: int(name[5:])
        )


def test_published_shares_put_genes_of_few_cells_first(planted):
    genes = np.flatnonzero(planted.n_expressed >= 1)
    published, _ = ranked(planted, genes, n_top_genes=10, rank_by="share")
    ours, _ = ranked(planted, genes, n_top_genes=10)
    assert published["n_cells"].median() < 10 < ours["n_cells"].median()
    assert hits(published).mean() < 0.6 < hits(ours).mean()
    # Genes that go with the code beyond chance are the better half of them.
    surer, _ = ranked(planted, genes, n_top_genes=10, rank_by="share", max_q=0.05)
    assert hits(surer).mean() > hits(published).mean()


def test_genes_are_ordered_by_what_was_asked_for(planted):
    genes = np.arange(20, 120)
    for rank_by in ("share", "correlation"):
        table, _ = ranked(planted, genes, rank_by=rank_by, n_top_genes=7)
        scores = planted.shares if rank_by == "share" else planted.correlation
        for code in range(N_PROGRAMMES + 1):
            of_code = table[table["code"] == f"code_{code}"]
            own = np.where(planted.correlation[code, genes] > 0, scores[code, genes], -1)
            best = [i for i in np.argsort(-own)[:7] if own[i] > 0]
            assert of_code["gene"].tolist() == [f"gene {i}" for i in genes[best]]
            np.testing.assert_allclose(of_code["share"], planted.shares[code, genes[best]])
            np.testing.assert_allclose(of_code["fold"], of_code["share"] / planted.usage[code])
            np.testing.assert_allclose(of_code["correlation"], planted.correlation[code, genes[best]])
            np.testing.assert_array_equal(of_code["n_cells"], planted.n_expressed[genes[best]])


def test_p_values_are_adjusted_for_all_codes_and_genes(planted):
    genes = np.flatnonzero(planted.n_expressed)
    correlation = planted.correlation[:, genes]
    q_values = false_discovery_control(planted.p_values[:, genes].ravel()).reshape(correlation.shape)
    table, _ = ranked(planted, genes, n_top_genes=400, max_q=0.05)
    kept = (q_values <= 0.05) & (correlation > 0)
    assert len(table) == kept.sum()
    at = table["code"].str[5:].astype(int), np.searchsorted(genes, table["gene"].str[5:].astype(int))
    np.testing.assert_allclose(table["q_value"], q_values[at])


def test_tokens_that_have_nothing_to_do_with_the_cells_go_with_no_genes(make_adata):
    adata = make_adata(400, 160)
    given = Given(adata.var_names, np.random.default_rng(0).integers(8, size=(400, 16)), 8)
    _, found = associate(given, opened(adata, given), compute=CPU)
    assert np.std(found.correlation * np.sqrt(399)) == pytest.approx(1, abs=0.1)
    table, top = ranked(found, np.arange(160), max_q=0.05)
    assert len(table) <= 1
    assert len(top) == len(table)


def test_a_rare_code_and_a_rare_gene_that_meet_by_chance_do_not_go_together(make_adata):
    adata, rng = make_adata(400, 160), np.random.default_rng(0)
    dense = adata.X.toarray()
    dense[:, 1:] *= rng.random((400, 159)) < 0.03
    dense[:, 0] += 1
    adata.X = sparse.csr_matrix(dense)
    codes = np.zeros((400, 16), dtype=int)
    for code in range(1, 21):
        codes[rng.choice(400, 10, replace=False), rng.integers(16)] = code
    given = Given(adata.var_names, codes, 21)
    _, found = associate(given, opened(adata, given), compute=CPU)
    # By a normal distribution some would be sure.
    by_normal = false_discovery_control(norm.sf(found.correlation * np.sqrt(399)).ravel())
    assert (by_normal < 1e-3).sum() > 10
    table, _ = ranked(found, np.flatnonzero(found.n_expressed >= 5), max_q=0.05)
    assert len(table) <= 2


def test_a_code_that_all_cells_use_alike_has_no_genes(make_adata):
    adata = make_adata(60)
    codes = np.c_[np.zeros((60, 5), dtype=int), np.random.default_rng(0).integers(1, 3, size=(60, 2))]
    given = Given(adata.var_names, codes, 4)
    _, found = associate(given, opened(adata, given), compute=CPU)
    table, _ = ranked(found, np.arange(40))
    assert set(table["code"]) == {"code_1", "code_2"}
    assert (found.correlation[[0, 3]] == 0).all()
