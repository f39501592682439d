"""Cells of tumours against cells of normal tissue."""
