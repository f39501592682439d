"""Parts of `train_cellnamer_mini.py`: the labelled studies, the marker sets, the vocabulary."""
