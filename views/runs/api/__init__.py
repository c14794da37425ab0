"""JSON API of runs, and of one model call."""

from views.runs.api import call_route
from views.runs.api.run_routes import bp

__all__ = ["bp", "call_route"]
