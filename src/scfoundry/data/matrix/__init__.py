"""Cells x genes matrices of any kind: their state, their checks, their rows."""
