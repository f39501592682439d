import math

import pytest
import torch
from torch.nn import functional as F

from scfoundry.data.tokens.ranks import FIRST_GENE, MASK
from scfoundry.model.langcell._config import LangCellConfig
from scfoundry.model.langcell._module import LangCellModule
from scfoundry.model.langcell._momentum import Momentum, Pairs
from scfoundry.model.langcell._objectives import (
    describes,
    focal_loss,
    hard_negatives,
    mask_genes,
    masked_gene_loss,
    matching_loss,
)
from scfoundry.model.langcell._pretraining import draw_pairs
from scfoundry.nn.contrastive import contrastive_loss


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def vectors(n, width=8):
    return F.normalize(torch.randn(n, width), dim=1)


def test_bert_rule_of_masking():
    n_genes = 1000
    tokens = torch.randint(FIRST_GENE, FIRST_GENE + n_genes, (400, 100))
    tokens[:, 0] = FIRST_GENE + n_genes
    present = torch.arange(100) < 80
    hidden, chosen = mask_genes(tokens, present.expand(400, -1), share=0.15, n_genes=n_genes)
    assert not chosen[:, 0].any()
    assert not chosen[:, 80:].any()
    assert torch.equal(hidden[~chosen], tokens[~chosen])
    assert chosen[:, 1:80].float().mean() == pytest.approx(0.15, abs=0.01)
    assert (hidden[chosen] == MASK).float().mean() == pytest.approx(0.8, abs=0.02)
    assert (hidden[chosen] == tokens[chosen]).float().mean() == pytest.approx(0.1, abs=0.02)
    replaced = hidden[chosen & (hidden != MASK)]
    assert replaced.min() >= FIRST_GENE
    assert replaced.max() < FIRST_GENE + n_genes


def test_masked_genes_by_hand():
    genes = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    loss = masked_gene_loss(torch.tensor([[2.0, 0.0], [0.0, 0.0]]), genes, torch.tensor([0, 1]))
    assert loss == pytest.approx((math.log(1 + math.exp(-2)) + math.log(2)) / 2)


def test_no_masked_gene_is_no_loss():
    assert masked_gene_loss(torch.empty(0, 4), torch.randn(5, 4), torch.empty(0, dtype=torch.long)) == 0


def test_contrast_by_hand():
    queries, candidates = torch.eye(2), torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    negative = torch.tensor([[False, True, False], [True, False, True]])
    first, second = math.log(1 + math.exp(-2)), math.log(1 + 2 * math.exp(-2))
    assert contrastive_loss(queries, candidates, negative, 0.5) == pytest.approx((first + second) / 2)


def test_what_is_no_negative_has_no_effect():
    queries, candidates = vectors(4), vectors(10)
    negative = torch.rand(4, 10) < 0.5
    negative[:, 7] = False
    expected = contrastive_loss(queries, candidates, negative, 0.05)
    candidates[7] = vectors(1)[0]
    assert contrastive_loss(queries, candidates, negative, 0.05) == expected


def test_the_order_of_negatives_does_not_matter():
    queries, candidates, order = vectors(4), vectors(10), torch.randperm(6) + 4
    negative = torch.rand(4, 10) < 0.5
    order = torch.cat([torch.arange(4), order])
    torch.testing.assert_close(
        contrastive_loss(queries, candidates[order], negative[:, order], 0.05),
        contrastive_loss(queries, candidates, negative, 0.05),
    )


def test_a_text_in_any_column_describes_a_cell():
    texts = torch.tensor([[0, 5], [1, 5], [2, 6]])
    assert describes(torch.tensor([0, 5, 6]), texts).tolist() == [
        [True, True, False],
        [False, True, False],
        [False, False, True],
    ]


def test_hard_negatives_are_negatives_and_mostly_the_similar_ones():
    similarity = torch.tensor([[9.0, 3.0, 0.0], [9.0, 9.0, 9.0], [0.0, 0.0, 0.0]])
    negative = torch.tensor([[False, True, True], [False, False, False], [True, False, False]])
    drawn = [hard_negatives(similarity, negative) for _ in range(300)]
    assert all(rows.tolist() == [0, 2] and columns[1] == 0 for rows, columns in drawn)
    share = sum(int(columns[0] == 1) for _, columns in drawn) / 300
    assert share == pytest.approx(math.exp(3) / (1 + math.exp(3)), abs=0.05)


def test_a_third_of_the_pairs_match_and_no_negative_pair_is_true():
    described = torch.tensor([0, 0, 1, 2, 2])
    untrue = described[:, None] != described
    cells, texts, matches = draw_pairs(torch.randn(5, 5), untrue)
    assert matches.tolist() == [True] * 5 + [False] * 10
    assert torch.equal(cells[:5], texts[:5])
    assert untrue[cells[5:], texts[5:]].all()
    assert sorted(texts[10:].tolist()) == list(range(5))


def test_cells_that_all_share_a_text_leave_only_true_pairs():
    _, _, matches = draw_pairs(torch.randn(3, 3), torch.zeros(3, 3, dtype=torch.bool))
    assert matches.tolist() == [True] * 3


def test_matching_by_hand():
    logits = torch.tensor([[0.0, 2.0], [0.0, 2.0]])
    expected = (math.log(1 + math.exp(-2)) + math.log(1 + math.exp(2))) / 2
    assert matching_loss(logits, torch.tensor([True, False])) == pytest.approx(expected)


def test_focal_loss_by_hand_and_as_plain_cross_entropy():
    logits, targets = torch.randn(6, 3), (torch.rand(6, 3) < 0.3).float()
    plain = F.binary_cross_entropy_with_logits(logits, targets)
    torch.testing.assert_close(focal_loss(logits, targets, gamma=0.0, alpha=0.5), plain / 2)
    by_hand = 0.25 * 0.5**2 * math.log(2)
    assert focal_loss(torch.zeros(1, 1), torch.ones(1, 1)) == pytest.approx(by_hand)


TINY = LangCellConfig(
    n_hidden=16, n_layers=1, n_heads=2, n_text_hidden=16, n_text_layers=1, n_text_heads=2, n_latent=4, n_words=9,
    max_length=8, max_text_length=8, queue_size=5, momentum=0.5,
)  # fmt: skip


@pytest.fixture
def module():
    return LangCellModule(TINY, 10)


def test_slow_copies_follow_warily(module):
    momentum = Momentum(module, ["cell"], n_columns=0)
    start = module.cell.tokens.weight.detach().clone()
    with torch.no_grad():
        module.cell.tokens.weight += 1
    distances = [0.0]
    for _ in range(20):
        momentum.follow(module)
        distances.append(float((momentum.cell.tokens.weight - start).mean()))
    assert distances[1] == pytest.approx(10 / 11, abs=1e-5)  # first momentum: 1 / (1 + 10)
    assert distances[-1] == pytest.approx(1, abs=1e-3)
    assert not any(parameter.requires_grad for parameter in momentum.parameters())


def pairs(rows):
    rows = torch.tensor(rows)
    return Pairs(rows[:, None].expand(-1, 4).float(), rows, rows[:, None].expand(-1, 4).float(), rows, rows[:, None])


def test_the_queue_forgets_the_oldest(module):
    momentum = Momentum(module, ["cell"], n_columns=1)
    assert len(momentum.queue.rows) == 0
    momentum.remember(pairs([1, 2, 3]))
    assert sorted(momentum.queue.rows.tolist()) == [1, 2, 3]
    momentum.remember(pairs([4, 5, 6]))
    queue = momentum.queue
    assert sorted(queue.rows.tolist()) == [2, 3, 4, 5, 6]
    assert torch.equal(queue.cells[:, 0].long(), queue.rows)
    assert torch.equal(queue.described[:, 0], queue.drawn)
    momentum.remember(pairs(list(range(10, 20))))
    assert sorted(momentum.queue.rows.tolist()) == list(range(15, 20))


def test_the_queue_is_part_of_the_saved_state(module):
    momentum, restored = (Momentum(module, ["cell"], n_columns=1) for _ in range(2))
    momentum.remember(pairs([1, 2, 3]))
    restored.load_state_dict(momentum.state_dict())
    for a, b in zip(momentum.queue, restored.queue, strict=True):
        assert torch.equal(a, b)
