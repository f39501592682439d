"""What the tokens of a codebook, by which a model writes cells, stand for."""
