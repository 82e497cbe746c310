"""Tools of MCP servers, mounted by configuration. The library `mcp` is imported only where servers are configured."""
