"""What does each part of scPaLM, and each reading of what its paper leaves open, add?"""
