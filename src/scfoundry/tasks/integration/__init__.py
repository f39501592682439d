"""One space for cells of several batches."""
