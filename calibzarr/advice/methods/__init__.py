"""Ways to choose bits: one module a method."""
