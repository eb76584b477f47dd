"""The benchmark: one module for each group of claims, each with its ``ENTRIES``."""
