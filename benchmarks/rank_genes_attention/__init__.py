"""Genes by attention beside differential and mean expression."""
