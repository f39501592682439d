"""How langcell-mini is made: labelled sets, marker sets, saving."""
