"""Turns a detector into something other processes can speak to: a Unix socket, a FUSE file."""

from .unix_socket import Reply, SocketServer, default_path, request, serve

__all__ = ["Reply", "SocketServer", "default_path", "request", "serve"]
