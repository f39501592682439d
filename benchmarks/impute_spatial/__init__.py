"""How well genes are imputed that spots lack."""
