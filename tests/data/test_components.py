import anndata as ad
import numpy as np
import pytest
from scipy import sparse

from scfoundry.data.genes import GeneVocabulary
from scfoundry.data.matrix.reader import CountsReader
from scfoundry.stats import components
from scfoundry.stats.components import LogMoments, PrincipalAxes, gathered, principal_components

GENES = GeneVocabulary([f"ENSG{i:011d}" for i in range(60)])


@pytest.fixture
def adata():
    rng = np.random.default_rng(0)
    rates = rng.gamma(0.5, 2.0, (3, len(GENES)))[rng.integers(3, size=90)]
    return ad.AnnData(sparse.csr_matrix(rng.poisson(rates).astype(np.float32)), var={"gene": GENES.ids}).copy()


@pytest.fixture
def reader_of():
    def make(adata):
        adata.var_names = adata.var["gene"]
        return CountsReader(adata, GENES, caller="test")

    return make


def test_equal_the_svd_of_standardised_log_expression(adata, reader_of):
    scores = principal_components(reader_of(adata), 5)
    dense = adata.X.toarray().astype(np.float64)
    log = np.log1p(1e4 * dense / dense.sum(1, keepdims=True))
    z = ((log - log.mean(0)) / np.sqrt(log.var(0) + components.MIN_VARIANCE)).clip(*components.Z_RANGE)
    # Clipping shifts the mean of a gene a little; axes are those of the second moments as they are.
    _, singular, axes = np.linalg.svd(z, full_matrices=False)
    np.testing.assert_allclose(np.abs(scores), np.abs(z @ axes[:5].T), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(scores, axis=0), singular[:5], rtol=1e-9)


def test_do_not_depend_on_blocks_or_the_order_of_cells(adata, reader_of, monkeypatch):
    whole = principal_components(reader_of(adata), 5)
    order = np.random.default_rng(1).permutation(adata.n_obs)
    shuffled = principal_components(reader_of(adata[order].copy()), 5)
    monkeypatch.setattr(components, "CELLS_PER_BLOCK", 7)
    np.testing.assert_allclose(principal_components(reader_of(adata), 5), whole, atol=1e-8)
    np.testing.assert_allclose(shuffled, whole[order], atol=1e-8)


def test_axes_of_the_same_length_turn_the_same_way_in_any_order(reader_of):
    """Three genes that one cell each expresses: nothing but rounding tells their axes apart."""
    counts = np.c_[np.ones((60, 57)), np.eye(60)[:, :3]].astype(np.float32)
    adata = ad.AnnData(sparse.csr_matrix(counts), var={"gene": GENES.ids}).copy()
    whole, order = principal_components(reader_of(adata)), np.random.default_rng(1).permutation(60)
    np.testing.assert_allclose(principal_components(reader_of(adata[order].copy())), whole[order], atol=1e-6)


def test_sequencing_depth_plays_no_part(adata, reader_of):
    deeper = adata.copy()
    deeper.X = sparse.csr_matrix(sparse.diags(np.arange(1, 91)) @ adata.X).astype(np.float32)
    np.testing.assert_allclose(
        principal_components(reader_of(deeper), 3), principal_components(reader_of(adata), 3), atol=1e-4
    )


def test_fewer_cells_than_components(adata, reader_of):
    scores = principal_components(reader_of(adata[:4].copy()), 30)
    assert scores.shape == (4, 4)
    assert np.isfinite(scores).all()


def test_cells_without_counts_have_no_place_and_no_influence(adata, reader_of):
    alone = principal_components(reader_of(adata.copy()), 5)
    nothing = ad.AnnData(sparse.csr_matrix((200, len(GENES)), dtype=np.float32), var=adata.var)
    scores = principal_components(reader_of(ad.concat([nothing, adata], merge="same", index_unique="-")), 5)
    assert np.isnan(scores[:200]).all()
    np.testing.assert_allclose(scores[200:], alone, atol=1e-8)


@pytest.mark.parametrize("counts", [np.eye(1, 60), np.ones((5, 60)), np.zeros((3, 60))], ids=["one", "alike", "empty"])
def test_no_component_is_left_where_no_gene_varies(counts, reader_of):
    adata = ad.AnnData(sparse.csr_matrix(counts.astype(np.float32)), var={"gene": GENES.ids})
    assert principal_components(reader_of(adata)).shape == (len(counts), 0)


def test_cells_alike_but_for_their_depth_differ_by_rounding_only(reader_of):
    rng = np.random.default_rng(0)
    counts = rng.integers(1, 9, 60) * rng.integers(1, 9, (50, 1))
    adata = ad.AnnData(sparse.csr_matrix(counts.astype(np.float32)), var={"gene": GENES.ids})
    assert principal_components(reader_of(adata)).shape == (50, 0)


def test_known_moments_save_a_pass(adata, reader_of):
    reader = reader_of(adata)
    moments = LogMoments(len(GENES))
    for block in reader.blocks(np.arange(adata.n_obs), 11):
        moments.update(block)
    np.testing.assert_allclose(
        principal_components(reader, 5, moments=moments), principal_components(reader, 5), atol=1e-8
    )


def axes_of(*readers, n_components=5):
    return PrincipalAxes.of({reader: gathered(reader) for reader in readers}, n_components)


def test_axes_of_several_data_sets_do_not_depend_on_their_order(adata, reader_of):
    one, other = reader_of(adata[:30].copy()), reader_of(adata[30:].copy())
    axes, turned = axes_of(one, other), axes_of(other, one)
    for reader in (one, other):
        np.testing.assert_allclose(axes.project(reader), turned.project(reader), atol=1e-8)
    lengths = np.concatenate([np.square(axes.project(reader)).sum(1) for reader in (one, other)])
    assert axes.spread == pytest.approx(np.sqrt(lengths.mean()))


def test_what_sets_whole_data_sets_apart_makes_no_axis(adata, reader_of, monkeypatch):
    cells = ad.concat([adata] * 20, merge="same", index_unique="-")
    elsewhere = cells.copy()
    # Another technology counts half of the genes at a tenth of the depth.
    elsewhere.X = sparse.csr_matrix(elsewhere.X.multiply(np.where(np.arange(60) < 30, 0.1, 1.0)).astype(np.float32))
    elsewhere.X.data = np.ceil(elsewhere.X.data)
    readers = reader_of(cells), reader_of(elsewhere)

    def gap():
        axes = axes_of(*readers)
        means = [axes.project(reader).mean(0) for reader in readers]
        return np.linalg.norm(means[0] - means[1]) / axes.spread

    narrow = gap()
    monkeypatch.setattr(components, "PRIOR_CELLS", 1e9)
    assert narrow < 0.3 * gap()


def test_a_few_cells_are_seen_among_the_others(adata, reader_of):
    many = ad.concat([adata] * 20, merge="same", index_unique="-")
    few = reader_of(many[:3].copy())
    axes = axes_of(reader_of(many[3:].copy()), few)
    np.testing.assert_allclose(axes.project(few), axes.project(reader_of(many))[:3], atol=0.1 * axes.spread)
