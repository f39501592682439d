"""Labels of cells, from a reference or from texts."""
