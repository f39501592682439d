"""Parts of `embedding_quality.py`: data sets, peers, scores, tables."""
