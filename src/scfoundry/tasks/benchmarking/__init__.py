"""Scores of embeddings beside those of simple peers."""
