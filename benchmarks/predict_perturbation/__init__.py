"""How well unseen perturbations are predicted."""
