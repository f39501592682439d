"""Which genes attend to which."""
