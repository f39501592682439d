"""Groups of genes that a model describes alike."""
