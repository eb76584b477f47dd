"""The directory of npz files that older scripts wrote, both ways."""
