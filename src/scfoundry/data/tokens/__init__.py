"""Cells as sequences of gene tokens."""
