"""What the statistics say, and the bits that follow from it."""
