"""JSON API of assistants, their versions and tools."""

from views.assistants.api import publish_route, tool_routes, version_routes
from views.assistants.api.assistant_routes import bp

__all__ = ["bp", "publish_route", "tool_routes", "version_routes"]
