"""Replaying stored states under observers."""
