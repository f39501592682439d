"""Edges of gene networks beside known interactions."""
