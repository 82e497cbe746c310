"""The REST resources, a blueprint each."""
