"""The WebSocket gateway: one connection carries all events of one user, under one cursor."""
