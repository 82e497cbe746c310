"""Inputs made from sound ones by seeded mutation, and what becomes of them; `make chaos PART=fuzz` makes many."""
