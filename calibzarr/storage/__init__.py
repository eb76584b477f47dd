"""One Zarr store: its format, and reading and writing it."""
