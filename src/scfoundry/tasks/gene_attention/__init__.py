"""Genes by the attention that cells pay them."""
