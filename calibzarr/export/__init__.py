"""Other formats: what is written for programs that know nothing of stores, and read from them."""
