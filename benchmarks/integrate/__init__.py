"""How well cells of several batches are brought into one space."""
