"""JSON API of conversations about projects (fastest contract 3.12). Each module adds its views to the blueprint."""

from flask import Flask

from views.conversations.api import (
    conversation_deploy_routes,
    conversation_routes,
    conversation_stream_routes,
    prompt_routes,
    shared_addresses,
)
from views.conversations.api.conversations_api_blueprint import bp


def init_app(app: Flask) -> None:
    """Register the routes, and tell them apart from OpenAI's, which are registered before."""
    app.register_blueprint(bp)
    conversation_stream_routes.init_app(app)
    shared_addresses.init_app(app)


__all__ = [
    "bp",
    "conversation_deploy_routes",
    "conversation_routes",
    "conversation_stream_routes",
    "init_app",
    "prompt_routes",
]
