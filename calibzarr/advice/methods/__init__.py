"""Methods of choosing numbers of bits: each module but ``base`` is one, listed by its name."""
