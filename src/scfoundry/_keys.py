"""Every key scfoundry reads or writes by default, in one place."""

from __future__ import annotations

from typing import Final

__all__ = ["Keys", "Units"]


class Keys:
    """Default slots of an AnnData."""

    SPATIAL: Final = "spatial"
    """``obsm``: coordinates, as squidpy and scanpy name them."""

    RNA: Final = "rna"
    """``MuData.mod``: the modality with gene expression."""

    RANKS: Final = "X_rank"
    """``obsm``: gene tokens of every cell in rank order; ``uns``: how they were made."""

    BINNED: Final = "X_binned"
    """``layers``, or ``obsm`` where the genes are a model's: bins of expression; ``uns``: how they were made."""

    ZERO_SHOT: Final = "zero_shot"
    """``obs``: label by texts alone; ``obs`` and ``obsm`` keys of its scores begin with it; ``uns``: how."""

    ANNOTATION: Final = "annotation"
    PATHWAYS: Final = "pathways"
    """``obs``: label learned from a reference; further keys as those of `ZERO_SHOT`."""

    IMPUTED: Final = "imputed"
    """``obsm``: expression of genes that were not measured; ``uns``: how, and how sure."""

    DENOISED: Final = "denoised"
    """``layers``: expected counts; ``uns``: how."""

    PERTURBATION: Final = "perturbation"
    """``uns``: predicted profiles and changes of perturbed cells, and how."""

    PERTURBATION_SPLIT: Final = "perturbation_split"
    """``obs``: part of a cell's perturbation, for training, validation or test; ``uns``: all perturbations, and how."""

    CELL_ATTENTION: Final = "cell_attention"
    """``obsp``: weights of a cell's context; ``uns``: the same between groups of cells, and how."""

    GENE_NETWORK: Final = "gene_network"
    """``uns``: which genes attend to which, in groups of cells, and how."""

    RANK_GENES_ATTENTION: Final = "rank_genes_attention"
    """``uns``: genes of groups by the attention that cells pay them, as `scanpy.tl.rank_genes_groups` writes."""

    TUMOUR_PROBABILITY: Final = "tumour_probability"
    """``obs``: probability that a cell comes from a tumour; ``uns``: how."""

    DRUG_RESPONSE: Final = "drug_response"
    """``obsm``: predicted responses to drugs, ln IC50 or what was learned from; ``uns``: how, and how sure."""

    DRUG_SENSITIVITY: Final = "drug_sensitivity"
    """``obs``: probability that a cell is sensitive to a drug; ``uns``: how, and how sure."""

    GENE_PROGRAMMES: Final = "gene_programmes"
    """``var``: group of genes with similar vectors; ``uns``: gene sets that these are enriched for, and how."""

    BENCHMARK: Final = "benchmark"
    """``uns``: scores of embeddings, and how they were made."""

    PATHWAY_TOKENS: Final = "pathway_tokens"
    """``obsm``, behind ``X_``: how often a cell uses every code of a codebook; ``uns``: genes that go with it, how."""

    UNKNOWN: Final = "unknown"
    """Label of cells that no other label fits."""

    LEIDEN: Final = "leiden"
    """``obs``: clusters, as scanpy names them."""

    PARAMS: Final = "params"
    """``uns[key]``: the arguments of the call."""

    VERB: Final = "verb"
    """``uns[key]``: the function that wrote it."""

    UNITS: Final = "units"
    """``uns[key]``: what the values of the result are, one of `Units`."""

    PROVENANCE: Final = "provenance"
    """``uns[key]``: model, weights, licence, citation, versions and gene coverage."""

    TEXTS: Final = "texts"
    """``uns[key]``: labels with their texts, ontology terms and markers."""

    REFERENCE: Final = "reference"
    """``uns[key]``: labels of the reference with the number of cells that each was learned from."""

    GROUPS: Final = "groups"
    """``uns[key]``: results between groups of cells."""

    EDGES: Final = "edges"
    """``uns[key]``: pairs of genes, group by group."""

    DRUGS: Final = "drugs"
    """``uns[key]``: drug by drug what it was learned from, and what correlation to expect."""

    USAGE: Final = "usage"
    """``uns[key]``: how often every code is used."""

    ASSOCIATION: Final = "association"
    """``uns[key]``: genes that go with codes, code by code."""

    ENRICHMENT: Final = "enrichment"
    """``uns[key]``: gene sets that groups of genes hold more of than chance would."""

    WARNING: Final = "warning"
    """``uns[key]``: what a reader of the result has to know."""

    PROFILES: Final = "profiles"
    """``uns[key]``: AnnData of predicted means, conditions x genes."""

    DIFFERENTIAL_EXPRESSION: Final = "differential_expression"
    """``uns[key]``: the genes that change most, condition by condition."""

    CONFIDENCE: Final = "confidence"
    """``uns[key]``: what correlation with the truth to expect of every imputed gene."""

    HIDDEN: Final = "hidden_genes"
    """``uns[key]``: genes hidden on purpose to learn this, and what they reached."""

    WEIGHTS: Final = "weights"
    """``uns[key]``: how much each kind of evidence was worth."""

    WEIGHTS_OF_UNKNOWN: Final = "weights_of_unknown_genes"
    """``uns[key]``: the same for genes that the model does not know."""

    @staticmethod
    def score(labels: str) -> str:
        """``obs`` slot of the score of a label."""
        return f"{labels}_score"

    @staticmethod
    def parent(labels: str) -> str:
        """``obs`` slot of the group that a label belongs to; further keys are made of it as of a label's."""
        return f"{labels}_parent"

    @staticmethod
    def fit(labels: str) -> str:
        """``obs`` slot of how well the best label fits at all."""
        return f"{labels}_fit"

    @staticmethod
    def scores(labels: str) -> str:
        """``obsm`` slot of the scores of all labels."""
        return f"{labels}_scores"

    @staticmethod
    def ontology_id(labels: str) -> str:
        """``obs`` slot of the ontology term of a label."""
        return f"{labels}_ontology_id"

    @staticmethod
    def embedding(model: str) -> str:
        """``obsm`` slot of a model's cell embedding."""
        return f"X_{model}"

    @staticmethod
    def integrated(model: str) -> str:
        """``uns`` slot of an integration; behind ``X_`` its ``obsm`` slot."""
        return f"{model}_integrated"


class Units:
    """What the values of results are: in ``uns[key]["units"]`` and in the line of the log that ends a verb."""

    LATENT: Final = "coordinates without unit"
    PROBABILITY: Final = "probability"
    COUNTS: Final = "counts"
    NORMALISED: Final = "normalised counts, before log1p"
    LOG1P: Final = "log1p per 10k, and change of log1p"
    RESPONSE: Final = "ln IC50, or what else was learned from"
    ATTENTION: Final = "attention"
    SHARE: Final = "share of attention"
    FOLD: Final = "fold of the mean share of attention"
    RANK: Final = "mean rank of attention, 0 to 1"
    STATISTIC: Final = "Welch's t of attention"
    SIMILARITY: Final = "cosine similarity"
    FREQUENCY: Final = "frequency of codes"
    GROUP: Final = "groups of genes"
    SCORE: Final = "score from 0 to 1"
