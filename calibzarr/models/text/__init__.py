"""How prompts become tokens."""
