"""Writes findings up: Markdown in which every figure comes from a table and every citation from a passage."""
