"""Stores of the same prompts and seeds against a reference."""
