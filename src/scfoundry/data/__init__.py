"""From AnnData to model input: genes, checks, row blocks, contexts."""
