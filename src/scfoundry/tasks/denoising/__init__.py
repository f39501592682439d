"""Expected counts of every gene in every cell."""
