"""Learning rates of published recipes for networks of another width."""

__all__ = ["rate_at_width"]

PUBLISHED_WIDTH = 512


def rate_at_width(published: float, n_hidden: int) -> float:
    """A rate for Adam that was published for 512 channels, for ``n_hidden``: inversely proportional where fewer.

    The step that suits Adam grows as networks get narrower (Yang et al. 2021, Tensor Programs V).
    """
    return published * max(1.0, PUBLISHED_WIDTH / n_hidden)
