"""Labels and known types by the ontology: the same however many are asked for at once, and few look-ups."""

from __future__ import annotations

import numpy as np
import pytest

from scfoundry.data.labels.hierarchy import claims, is_kind_of, lineages, nearest, related, siblings
from scfoundry.data.labels.ontology import CellOntology

T, CD4, B, PLASMA, PLASMABLAST = "CL:0000084", "CL:0000624", "CL:0000236", "CL:0000786", "CL:0000980"
FREE = "cell type: mystery."


class CountingOntology(CellOntology):
    """The Cell Ontology, which counts how often it is asked."""

    n_calls = 0

    def __contains__(self, identifier):
        self.n_calls += 1
        return super().__contains__(identifier)

    def __getitem__(self, identifier):
        self.n_calls += 1
        return super().__getitem__(identifier)

    def ancestors(self, identifier):
        self.n_calls += 1
        return super().ancestors(identifier)

    def descendants(self, identifier):
        self.n_calls += 1
        return super().descendants(identifier)


@pytest.fixture(scope="module")
def ontology():
    return CellOntology.load()


@pytest.fixture
def counting(ontology):
    counting = CountingOntology(ontology)
    counting.descendants(B)  # The tables of ancestors and descendants are made at the first call.
    counting.n_calls = 0
    return counting


def some(ontology, n, seed=0):
    return np.random.default_rng(seed).choice([term.id for term in ontology], n, replace=False).tolist()


def test_a_lineage_answers_what_pairs_are_asked(ontology):
    types = [*some(ontology, 60), T, CD4, FREE]
    lineage = lineages(types, ontology)
    for kind in types:
        for of in types:
            assert (of in lineage[kind]) == is_kind_of(kind, of, ontology)


def test_relatives_contain_or_belong_to_each_other(ontology):
    assert related([T, FREE], [CD4, T, B, FREE, "other text"], ontology).tolist() == [True, True, False, True, False]
    assert related([], [B], ontology).tolist() == [False]
    assert related([B], [], ontology).shape == (0,)


def test_siblings_are_children_of_one_narrow_type(ontology):
    assert {PLASMA, PLASMABLAST} <= siblings(PLASMA, ontology)
    assert T not in siblings(B, ontology)
    assert siblings(FREE, ontology) == set()


@pytest.mark.parametrize("n_types", [100, 400])
def test_the_ontology_is_asked_once_per_label_and_known_type(ontology, counting, n_types):
    labels, types = [(term,) for term in some(ontology, 12, seed=1)], some(ontology, n_types)
    for work in (
        lambda: claims(labels, types, counting),
        lambda: related([term for ids in labels for term in ids], types, counting),
    ):
        counting.n_calls = 0
        work()
        # Whether it is a term, and its ancestors; of labels also their siblings.
        assert counting.n_calls <= 2 * n_types + len(labels) * 60
    counting.n_calls = 0
    nearest(labels[0][0], types, counting)
    assert counting.n_calls < 100
