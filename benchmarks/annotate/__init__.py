"""Parts of `annotation.py`: splits, peers."""
