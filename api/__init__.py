"""The Flask application: REST and the WebSocket gateway in one process, on one port."""
