"""How the weights langcell-mini are made: cells of every type, and the texts that are true of them."""
