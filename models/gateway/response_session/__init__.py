"""Responses over one WebSocket: lanes, steering and the frames of clients."""
