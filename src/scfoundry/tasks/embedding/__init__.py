"""Embeddings that are adapted to the cells at hand."""
