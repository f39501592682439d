"""What was read, done and found, as a page."""
