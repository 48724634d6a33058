"""HTTP: the server, who may read, Server-Sent Events, WebSocket, routes."""
