"""Reads requests in plain words, by rules: which of the user's documents they are about, and what they ask."""
