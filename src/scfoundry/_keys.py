"""Every key scfoundry reads or writes by default, in one place."""

from __future__ import annotations

from typing import Final

__all__ = ["Keys"]


class Keys:
    """Default slots of an AnnData."""

    SPATIAL: Final = "spatial"
    """``obsm``: coordinates, as squidpy and scanpy name them."""

    RNA: Final = "rna"
    """``MuData.mod``: the modality with gene expression."""

    RANKS: Final = "X_rank"
    """``obsm``: gene tokens of every cell in rank order; ``uns``: how they were made."""

    PARAMS: Final = "params"
    """``uns[key]``: the arguments of the call."""

    PROVENANCE: Final = "provenance"
    """``uns[key]``: model, weights, licence, citation, versions and gene coverage."""

    @staticmethod
    def embedding(model: str) -> str:
        """``obsm`` slot of a model's cell embedding."""
        return f"X_{model}"
