"""Agents without a fleet: a package to start from, and a run in a sandbox or a test that keeps everything in memory."""
