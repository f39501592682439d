"""Scores, speed and memory, beside peers, with the machine and the settings in the same file."""
