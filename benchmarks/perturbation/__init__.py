"""Parts of `perturbation.py`."""
