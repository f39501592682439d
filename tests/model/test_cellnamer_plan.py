"""Plans of labels: how often the ontology is asked for one."""

from __future__ import annotations

from collections import Counter

import numpy as np

from scfoundry.data.labels.ontology import CellOntology
from scfoundry.model.cellnamer._config import CellNamerConfig
from scfoundry.model.cellnamer._module import CellNamerModule, OfferedLabel

LABELS = ["CL:0000236", "CL:0000084", "CL:0000623", "CL:0000576"]


def test_a_plan_asks_the_ontology_a_few_times_per_known_type(monkeypatch):
    ontology = CellOntology.load()
    types = np.random.default_rng(0).choice([term.id for term in ontology], 300, replace=False).tolist()
    markers = {identifier: ["gene"] for identifier in types[:250]}
    module = CellNamerModule(CellNamerConfig(types=types, markers=markers), n_genes=10)
    module.n_studies.fill_(1)
    labels = [OfferedLabel(["a text"], (term,)) for term in LABELS]
    module.plan(labels, ontology)
    calls: Counter[str] = Counter()
    for name in ("__contains__", "__getitem__", "ancestors", "descendants"):
        asked = getattr(CellOntology, name)
        monkeypatch.setattr(
            CellOntology, name, lambda self, i, asked=asked, name=name: calls.update([name]) or asked(self, i)
        )
    module.plan(labels, ontology)
    # In full once for each of two tables of claims, once for relatives, once for markers, and for the texts of types.
    assert calls.total() < 15 * len(types)
