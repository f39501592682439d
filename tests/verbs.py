"""The verbs as the shared tests call them: with which arguments, on which models, and what they promise."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pandas as pd
from cases import at_every_step, contents, leaves, rna

import scfoundry as sf

if TYPE_CHECKING:
    from anndata import AnnData


USERS = ("cellplm", "langcell", "cellnamer", "celler", "celllm", "scpalm", "small")
"""Models that the verbs are called with; those that need nothing but an embedding take any."""


@dataclass(frozen=True)
class Verb:
    """How a verb is called in these tests, and what it promises."""

    name: str
    slots: tuple[str, ...]
    arguments: dict[str, Any]
    models: str = " ".join(USERS)
    # Models that it can use as well; one that only embeds stands for all that do.
    takes: str = ""
    reference: bool = False
    log1p: str = "same"
    # How far rounding may move values of untrained models.
    tolerance: float = 1e-5
    steps: dict[str, dict[str, Any]] = field(default_factory=dict)
    # What sets a second way of calling the verb apart.
    variant: str = ""
    # What its values are, as the record and the log say.
    units: str = "probability"

    @property
    def label(self) -> str:
        return f"{self.name}{self.variant}"


TEXTS = ["B cell", "monocyte", "NK"]
GENES = 50
SETS = {"some": ["ENSG00000000938", "ENSG00000005022", "ENSG00000008517", "ENSG00000011600"]}
ONE_EPOCH = {"max_epochs": 1}
ALL_WEIGHTS = {"train": "all"} | ONE_EPOCH
ANY = "cellplm langcell cellnamer celler celllm scpalm"
SMILES = {"A": "CCO", "B": "CCN", "C": "c1ccccc1O", "D": "CC(=O)O"}
PLACES = {"batch_key": "batch", "spatial_key": "spatial"}
SECTIONS = {"context_key": "batch", "reference_context_key": "batch"}
VERBS = [
    Verb("embed", ("obsm/X_{model}", "uns/{model}"), PLACES, units="coordinates without unit"),
    Verb(
        "embed",
        ("obsm/X_{model}", "uns/{model}"),
        PLACES | ONE_EPOCH | {"fine_tune": True},
        models="cellplm scpalm",
        log1p="refused",
        variant="_fine_tuned",
        units="coordinates without unit",
    ),
    Verb(
        "integrate",
        ("obsm/X_{model}_integrated", "uns/{model}_integrated"),
        {"batch_key": "batch", "n_genes": 30} | ONE_EPOCH,
        models="cellplm celler",
        log1p="refused",
        units="coordinates without unit",
    ),
    Verb(
        "annotate",
        ("obs/annotation", "obs/annotation_score", "obsm/annotation_scores", "uns/annotation"),
        {"labels_key": "cell_type", "batch_key": "batch", "reference_batch_key": "batch"},
        reference=True,
        steps={"langcell": ALL_WEIGHTS, "celler": ALL_WEIGHTS},
    ),
    Verb(
        "identify_pathways",
        ("obsm/pathways", "uns/pathways"),
        {"pathways_key": "active"},
        reference=True,
        # The heads multiply what rounding decides.
        tolerance=1e-4,
        steps={"langcell": ALL_WEIGHTS},
    ),
    Verb(
        "zero_shot_annotate",
        (
            "obs/zero_shot",
            "obs/zero_shot_score",
            "obs/zero_shot_fit",
            "obs/zero_shot_ontology_id",
            "obsm/zero_shot_scores",
            "uns/zero_shot",
        ),
        {"texts": TEXTS},
        models="langcell cellnamer",
        # Without training no label is likelier than another, and cells that agree multiply what rounding decides.
        # By trained weights all stays the same: test_default_weights.
        tolerance=1e-4,
    ),
    Verb("retrieve", (), {"query": TEXTS, "k": 99}, models="langcell cellnamer", units="cosine similarity"),
    Verb("impute_spatial", ("obsm/imputed", "uns/imputed"), SECTIONS, reference=True, log1p="runs", units="counts"),
    Verb(
        "denoise",
        ("layers/denoised", "uns/denoised"),
        PLACES,
        log1p="refused",
        steps={"cellplm": ONE_EPOCH},
        units="counts",
    ),
    Verb(
        "predict_perturbation",
        ("uns/perturbation",),
        {"perturbation_key": "guide", "control": "ctrl", "perturbations": ["ENSG00000000938+ENSG00000008517"]},
        units="log1p per 10k, and change of log1p",
    ),
    Verb(
        "drug_response",
        ("obsm/drug_response", "uns/drug_response"),
        {"response": "ln_ic50", "smiles": SMILES, "n_folds": 2},
        models="small",
        takes=ANY,
        # Penalties are chosen from a list, by what rounding may decide.
        tolerance=1e-3,
        units="ln IC50, or what else was learned from",
    ),
    Verb(
        "drug_sensitivity",
        ("obs/drug_sensitivity", "uns/drug_sensitivity"),
        {"response_key": "response", "positive": "sensitive"},
        models="small",
        takes=ANY,
        tolerance=1e-3,
    ),
    Verb(
        "cell_attention",
        ("obsp/cell_attention", "uns/cell_attention"),
        PLACES | {"groupby": "cell_type"},
        models="cellplm",
        units="share of attention",
    ),
    Verb(
        "gene_network",
        ("uns/gene_network",),
        {"groupby": "cell_type", "n_genes": 30, "min_cells": 3, "top_k": 40},
        models="langcell celler",
        units="mean rank of attention, 0 to 1",
    ),
    Verb(
        "rank_genes_attention",
        ("uns/rank_genes_attention",),
        {"groupby": "cell_type", "n_genes": 10, "min_cells": 5},
        models="langcell celler celllm",
        units="attention",
    ),
    Verb(
        "pathway_tokens",
        ("obsm/X_pathway_tokens", "uns/pathway_tokens"),
        {"gene_sets": SETS, "n_top_genes": 20, "min_cells": 5, "max_q": 1.0},
        models="scpalm",
        units="frequency of codes",
    ),
    Verb(
        "discriminate_tumour",
        ("obs/tumour_probability", "uns/tumour_probability"),
        {},
        models="celllm",
    ),
]


@dataclass
class Case:
    """A verb, a model that it can use, and small data."""

    verb: Verb
    model: Any
    model_name: str
    query: AnnData
    labelled: AnnData

    def call(self, adata: Any, reference: Any = None, **changes: Any) -> Any:
        """What the verb returns."""
        given = (adata, self.labelled if reference is None else reference) if self.verb.reference else (adata,)
        arguments = {"model": self.model, "device": "cpu"} | self.verb.arguments
        arguments |= self.verb.steps.get(self.model_name, {}) | changes
        return getattr(sf.tl, self.verb.name)(*given, **arguments)

    def run(self, adata: Any, reference: Any = None, **changes: Any) -> dict[str, Any]:
        """All that the verb adds to the data, or returns as a table."""
        before = contents(adata)
        returned = self.call(adata, reference, **changes)
        if isinstance(returned, pd.DataFrame):
            return table_of(returned)
        return added(contents(rna(adata if returned is None else returned)), before)

    @property
    def recorded(self) -> dict[str, Any]:
        """Arguments as they stand in the record; texts and perturbations have places of their own."""
        return {name: value for name, value in self.verb.arguments.items() if isinstance(value, str | int)}

    @cached_property
    def expected(self) -> dict[str, Any]:
        return self.run(self.query.copy())

    @cached_property
    def n_steps(self) -> int:
        """How often a model or a layer of a network computes."""
        steps: list[None] = []
        with at_every_step(self.model, lambda: steps.append(None)):
            self.call(self.query.copy())
        return len(steps)


def table_of(hits: pd.DataFrame) -> dict[str, Any]:
    return {"hits": hits.set_index(hits["query"] + " " + hits["obs_name"])} | leaves(hits.attrs, "attrs")


def added(after: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
    return {address: value for address, value in after.items() if address not in before}
