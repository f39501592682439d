"""Which cells attend to which."""
