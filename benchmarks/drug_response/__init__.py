"""How well responses of lines to drugs are predicted, beyond what means say."""
