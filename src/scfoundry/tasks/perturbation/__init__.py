"""Perturbations that nobody has measured."""
