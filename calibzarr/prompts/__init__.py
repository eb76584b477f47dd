"""Prompt lists: read from files, or made from words."""
