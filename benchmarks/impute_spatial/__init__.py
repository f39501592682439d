"""Parts of `imputation.py`."""
