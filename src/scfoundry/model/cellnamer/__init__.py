"""CellNamer."""
