"""Is a store whole and true, and what can be mended."""
