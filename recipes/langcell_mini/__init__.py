"""How langcell-mini is made: labelled sets, marker sets, augmented cells, training."""
