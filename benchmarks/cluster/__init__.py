"""Do clusters of an embedding agree with known labels?"""
