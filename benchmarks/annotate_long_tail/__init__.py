"""How well cells are named by a labelled reference."""
