"""Genes that a spatial panel lacks."""
