"""JSON API of assistants, their versions and tools."""

from views.assistants.api import import_route, publish_route, tool_routes, version_routes
from views.assistants.api.assistant_routes import bp

__all__ = ["bp", "import_route", "publish_route", "tool_routes", "version_routes"]
