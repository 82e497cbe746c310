"""Pages of the web, fetched without ever reaching an inside address. See `docs/security.md`."""
