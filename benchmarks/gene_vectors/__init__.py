"""Interactions that were left out, by vectors of genes."""
