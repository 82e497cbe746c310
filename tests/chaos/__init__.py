"""The long fault suite: real fleets, a nemesis with a seed, and a checker that reads what clients recorded."""
