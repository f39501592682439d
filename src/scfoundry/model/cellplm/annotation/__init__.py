"""Cell types by a labelled reference (section 4.3 of the paper)."""
