"""Which cells take from which: the weights that Flow-Attention implies."""
