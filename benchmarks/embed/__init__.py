"""How well cells are embedded."""
