from ._embed import embed

__all__ = ["embed"]
