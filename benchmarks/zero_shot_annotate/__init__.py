"""Parts of `zero_shot.py`: tasks, left-out studies, peers, combination, tables."""
