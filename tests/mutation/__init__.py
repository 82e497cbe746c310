"""Mutation testing of what decides who somebody is and what they may do: `make mutation`, see docs/mutation.md."""
