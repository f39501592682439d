"""What every verb of `scfoundry.tl` needs of a model."""

from __future__ import annotations

from scfoundry.model._capabilities import (
    AttendsFromCls,
    AttendsToCells,
    AttendsToGenes,
    DiscriminatesTumour,
    Embeds,
    FineTunesIntegration,
    HasGeneVectors,
    ReadsTexts,
    TokenisesPathways,
    can,
)

__all__ = ["VERBS", "verbs_of", "verbs_of_class"]

# Verb of `scfoundry.tl` -> what it needs of a model.
VERBS: dict[str, type] = {
    "embed": Embeds,
    "integrate": FineTunesIntegration,
    "annotate": Embeds,
    "zero_shot_annotate": ReadsTexts,
    "retrieve": ReadsTexts,
    "identify_pathways": Embeds,
    "impute_spatial": Embeds,
    "denoise": Embeds,
    "predict_perturbation": Embeds,
    "drug_response": Embeds,
    "drug_sensitivity": Embeds,
    "cell_attention": AttendsToCells,
    "gene_network": AttendsToGenes,
    "gene_programmes": HasGeneVectors,
    "rank_genes_attention": AttendsFromCls,
    "pathway_tokens": TokenisesPathways,
    "discriminate_tumour": DiscriminatesTumour,
}


def verbs_of(model: object) -> list[str]:
    """Verbs that a model, with the weights it has, serves."""
    return [verb for verb, capability in VERBS.items() if can(model, capability)]


def verbs_of_class(model: type) -> list[str]:
    """Verbs that weights of a class of models serve, unless they lack what the class can have."""
    return [verb for verb, capability in VERBS.items() if all(hasattr(model, name) for name in _members(capability))]


def _members(capability: type) -> set[str]:
    """Attributes that a protocol asks for; ``issubclass`` refuses to look at those that are no methods."""
    return {name for base in capability.__mro__ for name in vars(base) if not name.startswith("_")}
