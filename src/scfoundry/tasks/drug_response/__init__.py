"""What a cell state says about a drug."""
