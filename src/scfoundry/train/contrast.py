"""How a contrastive loss sees its batch: all of it in memory at once, or divided into parts."""

from __future__ import annotations

__all__ = ["DIVIDED", "check_contrast"]

DIVIDED = "divide_and_conquer"


def check_contrast(contrast: str, *, batch_size: int, part_size: int | None) -> None:
    """Refuse parts without a division, and a batch that has nothing to divide."""
    if part_size is None and contrast != DIVIDED:
        return
    if contrast != DIVIDED:
        msg = (
            f"part_size={part_size} divides a batch, which contrast={contrast!r} holds in memory at once: "
            f'train(contrast="{DIVIDED}", part_size={part_size}).'
        )
        raise ValueError(msg)
    if batch_size < 2:
        msg = (
            f"A cell is told from the others of its batch, and a batch of {batch_size} has none: "
            f'train(contrast="{DIVIDED}", batch_size=512).'
        )
        raise ValueError(msg)
