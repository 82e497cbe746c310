"""Tools of MCP servers, mounted by configuration. The library `mcp` itself is imported by sandboxes that call one."""
