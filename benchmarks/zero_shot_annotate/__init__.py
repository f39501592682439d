"""How well cells are named from texts alone."""
