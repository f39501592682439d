"""Parts of CellNamer: expression, hashed texts, markers, known types, and how labels claim them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import sparse

from scfoundry.data.labels.hierarchy import claims, nearest
from scfoundry.data.labels.ontology import CellOntology
from scfoundry.model.cellnamer._config import CellNamerConfig
from scfoundry.model.cellnamer._expression import GeneMoments, GeneScale
from scfoundry.model.cellnamer._markers import MarkerProfiles, showing
from scfoundry.model.cellnamer._module import CellNamerModule, OfferedLabel
from scfoundry.model.cellnamer._text import HashedText
from scfoundry.nn.counts import SparseCounts

B, T, CD4, CD8, NK, ILC = "CL:0000236", "CL:0000084", "CL:0000624", "CL:0000625", "CL:0000623", "CL:0001065"
MONOCYTE, PLASMA, PLASMABLAST, HEPATOCYTE = "CL:0000576", "CL:0000786", "CL:0000980", "CL:0000182"
N_GENES = 40


@pytest.fixture(scope="module")
def ontology() -> CellOntology:
    return CellOntology.load()


@pytest.fixture
def module() -> CellNamerModule:
    """Types B, T, natural killer cell and monocyte with ten markers each, otherwise untrained."""
    torch.manual_seed(0)
    types = [B, T, NK, MONOCYTE]
    markers = {t: [f"gene{10 * i + j}" for j in range(10)] for i, t in enumerate(types)}
    config = CellNamerConfig(types=types, markers=markers, n_hidden=8, n_latent=64, n_buckets=4096, n_text_hidden=64)
    module = CellNamerModule(config, N_GENES).eval()
    of_types = torch.eye(4)[[types.index(profile) for profile in config.profiles]]
    module.profiles.learn(of_types.repeat_interleave(10, 1) / 10)
    module.heads.profile_of_type.copy_(of_types.T)
    # The cosine of untrained networks is noise.
    module.weights[0] = 0
    return module


def cells_of(profile: int, n: int = 6) -> torch.Tensor:
    """Z-scores of cells that show the markers of one profile."""
    z = torch.randn(n, N_GENES, generator=torch.Generator().manual_seed(profile)) * 0.3
    z[:, profile * 10 : profile * 10 + 10] += 2
    return z


def counts(rng: np.random.Generator, n: int = 30) -> sparse.csr_matrix:
    return sparse.csr_matrix(rng.poisson(1.0, (n, N_GENES)).astype(np.float32))


def stored(expression: torch.Tensor) -> SparseCounts:
    """Log expression as the networks get it."""
    return SparseCounts.from_csr(sparse.csr_matrix(expression.numpy()))


ALL = torch.ones(N_GENES, dtype=torch.bool)


class TestExpression:
    def test_a_panel_is_scaled_to_what_its_genes_usually_add_up_to(self) -> None:
        scale = GeneScale(N_GENES)
        scale.abundance.copy_(torch.linspace(1, 500, N_GENES))
        measured = ALL.clone()
        measured[:30] = False
        panel = counts(np.random.default_rng(0)).multiply(measured.numpy()).tocsr()
        expression = scale.log_expression(SparseCounts.from_csr(panel), measured)
        totals = replace(expression, values=expression.values.expm1()).totals()
        torch.testing.assert_close(totals, scale.abundance[30:].sum().expand(30))

    def test_depth_does_not_show(self) -> None:
        matrix = counts(np.random.default_rng(0))
        scale = GeneScale(N_GENES)
        once, thrice = (scale.log_expression(SparseCounts.from_csr(m), ALL) for m in (matrix, matrix * 3))
        torch.testing.assert_close(once.values, thrice.values)

    def test_moments_do_not_depend_on_blocks_or_order(self) -> None:
        expression = torch.rand(50, N_GENES)
        whole, parts = GeneMoments(N_GENES), GeneMoments(N_GENES)
        whole.update(stored(expression))
        for part in expression.flip(0).split(7):
            parts.update(stored(part))
        torch.testing.assert_close(whole.mean, parts.mean, rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(whole.sd, parts.sd, rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(whole.sd, expression.std(0, correction=0))

    def test_cells_without_expression_say_nothing_of_the_moments(self) -> None:
        expression = torch.rand(20, N_GENES)
        alone, among = GeneMoments(N_GENES), GeneMoments(N_GENES)
        alone.update(stored(expression))
        among.update(stored(torch.cat([torch.zeros(30, N_GENES), expression])))
        assert among.n_cells == 20
        torch.testing.assert_close(among.mean, alone.mean)
        torch.testing.assert_close(among.sd, alone.sd)

    def test_moments_leave_a_device_without_double_precision_first(self) -> None:
        class OnSinglePrecisionDevice(torch.Tensor):
            def double(self) -> torch.Tensor:
                msg = "Cannot convert a MPS Tensor to float64"
                raise TypeError(msg)

            def cpu(self) -> torch.Tensor:
                return self.as_subclass(torch.Tensor)

        moments, expression = GeneMoments(N_GENES), stored(torch.rand(5, N_GENES))
        moments.update(replace(expression, values=expression.values.as_subclass(OnSinglePrecisionDevice)))
        assert moments.n_cells == 5

    def test_few_cells_are_seen_by_the_training_data(self) -> None:
        scale, expression = GeneScale(N_GENES), torch.rand(2, N_GENES)
        moments = GeneMoments(N_GENES)
        moments.update(stored(expression))
        alone, blended = scale(stored(expression), ALL), scale(stored(expression), ALL, moments)
        own = (expression - moments.mean) / (moments.sd.square() + 0.05**2).sqrt()
        torch.testing.assert_close(blended, alone + 0.5 * 2 / 22 * (own - alone))

    def test_cells_without_counts_and_genes_not_measured_are_finite_or_zero(self) -> None:
        scale, measured = GeneScale(N_GENES), ALL.clone()
        measured[:5] = False
        expression = scale.log_expression(SparseCounts.from_csr(sparse.csr_matrix((2, N_GENES))), measured)
        z = scale(expression, measured)
        assert torch.isfinite(z).all()
        assert not z[:, :5].any()


class TestHashedText:
    def test_embeddings_are_unit_vectors_that_ignore_case_and_company(self) -> None:
        encode = HashedText(512, 8, 8)
        alone, together = encode(["B cell"]), encode(["natural killer cell", "b CELL"])
        torch.testing.assert_close(alone[0], together[1])
        torch.testing.assert_close(together.norm(dim=1), torch.ones(2))

    def test_unseen_words_are_near_words_that_look_alike(self) -> None:
        encode = HashedText(8192, 64, 64)
        known, alike, other = encode(["monocyte", "monocytes", "hepatic stellate"])
        assert known @ alike > known @ other + 0.2

    def test_an_empty_text_is_no_error(self) -> None:
        assert torch.isfinite(HashedText(64, 4, 4)(["", "?"])).all()


class TestHierarchy:
    def test_a_type_goes_to_the_most_specific_label(self, ontology: CellOntology) -> None:
        shares, own = claims([[ILC], [NK], [T]], [NK, CD4, ILC], ontology)
        assert shares.tolist() == [[0, 0, 1], [1, 0, 0], [0, 1, 0]]
        assert own == {0, 1, 2}

    def test_a_broad_type_is_split_among_narrower_labels(self, ontology: CellOntology) -> None:
        shares, own = claims([[CD4], [CD8], [B]], [T, B], ontology)
        assert shares.tolist() == [[0.5, 0], [0.5, 0], [0, 1]]
        assert own == {2}

    def test_siblings_step_in_and_strangers_do_not(self, ontology: CellOntology) -> None:
        shares, _ = claims([[PLASMABLAST], [HEPATOCYTE]], [PLASMA, MONOCYTE], ontology)
        assert shares.tolist() == [[1, 0], [0, 0]]

    def test_a_union_claims_both_of_its_types(self, ontology: CellOntology) -> None:
        shares, _ = claims([[T, NK], [B]], [CD4, NK, B], ontology)
        assert shares.tolist() == [[1, 1, 0], [0, 0, 1]]

    def test_stand_ins_are_near_and_add_up_to_one(self, ontology: CellOntology) -> None:
        assert nearest(B, [B, T], ontology) == [(B, 1.0)]
        assert nearest(PLASMABLAST, [B, PLASMA], ontology) == [(PLASMA, 1.0)]
        assert nearest(CD4, [T, B], ontology) == [(T, 1.0)]
        assert nearest(HEPATOCYTE, [T, B], ontology) == []
        assert sum(weight for _, weight in nearest(ILC, [NK, T], ontology)) == 1


class TestMarkerProfiles:
    def test_the_match_is_a_weighted_mean_over_measured_genes(self) -> None:
        profiles = MarkerProfiles([3], 4)
        profiles.learn(torch.tensor([[0.5, 0.25, 0.25, 0.0]]))
        z, measured = torch.tensor([[2.0, 1.0, 0.0, 9.0]]), torch.tensor([True, True, False, True])
        assert profiles(z, measured).item() == pytest.approx((0.5 * 2 + 0.25) / (0.75 + 0.05))

    def test_without_a_measured_marker_the_match_is_zero(self) -> None:
        profiles = MarkerProfiles([1], 4)
        profiles.learn(torch.eye(4)[:1])
        assert profiles(torch.zeros(1, 4), torch.tensor([False, True, True, True])).item() == 0

    def test_profiles_that_show_given_markers_are_found(self) -> None:
        profiles = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.4, 0.3, 0.3, 0.0], [0.1, 0.0, 0.0, 0.9]])
        assert showing(torch.tensor([0.5, 0.5, 0.0, 0.0]), profiles) == [0, 1]
        assert showing(torch.tensor([0.0, 0.0, 0.0, 1.0]), profiles) == [2]
        assert showing(torch.tensor([0.0, 0.0, 1.0, 0.0]), profiles[[0, 2]]) == []


class TestModule:
    def test_cells_go_to_the_label_whose_markers_they_show(
        self, module: CellNamerModule, ontology: CellOntology
    ) -> None:
        labels = [OfferedLabel(["cell type: T cell."], (T,)), OfferedLabel(["cell type: B cell."], (B,))]
        plan = module.plan(labels, ontology)
        assert (module(cells_of(0), ALL, plan).logits.argmax(1) == 1).all()
        assert (module(cells_of(1), ALL, plan).logits.argmax(1) == 0).all()

    def test_cells_of_a_type_that_is_not_offered_are_outside(
        self, module: CellNamerModule, ontology: CellOntology
    ) -> None:
        module.n_studies.copy_(torch.tensor([1, 1, 0, 1]))
        plan = module.plan([OfferedLabel(["T cell"], (T,)), OfferedLabel(["B cell"], (B,))], ontology)
        assert plan.outside.tolist() == [False, False, False, True]
        known, strange = module(cells_of(1), ALL, plan).outside, module(cells_of(3), ALL, plan).outside
        assert known.max() < strange.min()

    def test_scores_do_not_depend_on_blocks_order_or_other_cells(
        self, module: CellNamerModule, ontology: CellOntology
    ) -> None:
        plan = module.plan([OfferedLabel([name], (i,)) for name, i in (("T cell", T), ("B cell", B))], ontology)
        z = torch.cat([cells_of(i) for i in range(4)])
        whole = module(z, ALL, plan)
        parts = [module(part, ALL, plan) for part in z.flip(0).split(5)]
        torch.testing.assert_close(whole.logits, torch.cat([part.logits for part in parts]).flip(0))
        torch.testing.assert_close(whole.outside, torch.cat([part.outside for part in parts]).flip(0))

    def test_the_order_of_labels_does_not_matter(self, module: CellNamerModule, ontology: CellOntology) -> None:
        labels = [
            OfferedLabel(["T cell"], (T,)),
            OfferedLabel(["B cell"], (B,)),
            OfferedLabel(["monocyte"], (MONOCYTE,)),
        ]
        forth, back = (module(cells_of(2), ALL, module.plan(x, ontology)).logits for x in (labels, labels[::-1]))
        torch.testing.assert_close(forth, back.flip(1))

    def test_markers_of_the_user_replace_those_of_the_model(
        self, module: CellNamerModule, ontology: CellOntology
    ) -> None:
        novel = OfferedLabel(["hepatocyte"], (HEPATOCYTE,), markers=dict.fromkeys(range(30, 40), 1.0))
        b_cell = OfferedLabel(["B cell"], (B,))
        informed = module.plan([novel, b_cell], ontology)
        assert informed.uninformed == []
        assert (module(cells_of(3), ALL, informed).logits.argmax(1) == 0).all()
        bare = module.plan([OfferedLabel(["hepatocyte"], (HEPATOCYTE,)), b_cell], ontology)
        assert bare.uninformed == [0]

    def test_a_type_that_several_studies_show_goes_less_by_its_markers(
        self, module: CellNamerModule, ontology: CellOntology
    ) -> None:
        labels = [OfferedLabel(["T cell"], (T,)), OfferedLabel(["B cell"], (B,))]
        before = module.plan(labels, ontology)
        module.n_studies.copy_(torch.tensor([2.0, 0, 0, 0]))
        after = module.plan(labels, ontology)
        assert (before.proven.tolist(), after.proven.tolist()) == ([False, False], [False, True])
        gap = [module(cells_of(0), ALL, plan).logits.diff().mean() for plan in (before, after)]
        assert gap[1] < gap[0]

    def test_free_text_stands_for_the_known_type_it_resembles_or_for_none(
        self, module: CellNamerModule, ontology: CellOntology
    ) -> None:
        prompts = ontology.prompts(ontology[NK])
        plan = module.plan([OfferedLabel(prompts), OfferedLabel(["something else"])], ontology)
        assert plan.shares.tolist() == [[0, 0, 1, 0], [0, 0, 0, 0]]
        assert plan.uninformed == [1]

    def test_an_empty_cell_scores_finite(self, module: CellNamerModule, ontology: CellOntology) -> None:
        plan = module.plan([OfferedLabel(["T cell"], (T,)), OfferedLabel(["B cell"], (B,))], ontology)
        scores = module(torch.zeros(1, N_GENES), ALL, plan)
        assert torch.isfinite(scores.logits).all()
        assert torch.isfinite(scores.outside).all()

    def test_everything_learned_is_in_the_state(self, module: CellNamerModule, ontology: CellOntology) -> None:
        other = CellNamerModule(module.config, N_GENES).eval()
        other.load_state_dict(module.state_dict())
        plan = other.plan([OfferedLabel(["T cell"], (T,)), OfferedLabel(["B cell"], (B,))], ontology)
        torch.testing.assert_close(other(cells_of(0), ALL, plan).logits, module(cells_of(0), ALL, plan).logits)

    @pytest.mark.parametrize("ids", [(), (HEPATOCYTE,)], ids=["free text", "term"])
    def test_cells_of_a_known_type_that_shows_the_markers_of_a_label_are_not_outside(
        self, module: CellNamerModule, ontology: CellOntology, ids: tuple[str, ...]
    ) -> None:
        module.n_studies.fill_(1)
        mine = OfferedLabel(["xyzzy"], ids, markers=dict.fromkeys(range(10, 16), 1.0))
        plan = module.plan([mine, OfferedLabel(["B cell"], (B,))], ontology)
        assert plan.outside.tolist() == [False, False, True, True]
        assert plan.shares.tolist() == [[0, 1, 0, 0], [1, 0, 0, 0]]
        assert module(cells_of(1), ALL, plan).outside.max() < 0.5

    @pytest.mark.parametrize("ids", [(), (HEPATOCYTE,)], ids=["free text", "term"])
    def test_markers_of_a_label_take_no_type_from_another_one(
        self, module: CellNamerModule, ontology: CellOntology, ids: tuple[str, ...]
    ) -> None:
        mine = OfferedLabel(["xyzzy"], ids, markers=dict.fromkeys(range(6), 1.0))
        plan = module.plan([mine, OfferedLabel(["B cell"], (B,))], ontology)
        assert plan.shares.tolist() == [[0, 0, 0, 0], [1, 0, 0, 0]]

    @pytest.mark.parametrize("profiles", [(), (B,)], ids=["no profile", "one profile"])
    def test_scores_are_finite_with_hardly_a_type_to_compare_with(
        self, profiles: tuple[str, ...], ontology: CellOntology
    ) -> None:
        markers = {profile: ["gene0"] for profile in profiles}
        config = CellNamerConfig(types=(B,), markers=markers, n_hidden=8, n_latent=8, n_buckets=64, n_text_hidden=8)
        module = CellNamerModule(config, N_GENES).eval()
        labels = [OfferedLabel(["B cell"], (B,)), OfferedLabel(["mine"], markers={3: 1.0})]
        scores = module(cells_of(0), ALL, module.plan(labels, ontology))
        assert torch.isfinite(scores.logits).all()
        assert torch.isfinite(scores.outside).all()
