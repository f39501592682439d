"""Statistics on arrays, without a model."""
