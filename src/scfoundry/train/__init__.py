"""Training of any model: steps that are seeded and resume, batches of cells, contexts."""
