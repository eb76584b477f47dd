"""Statistics of values: arrays in, arrays out."""
