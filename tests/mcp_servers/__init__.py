"""MCP servers for tests: an honest one, and some that a sandbox has to survive."""
