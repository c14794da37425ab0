"""JSON API of runs, and of model calls."""

from views.runs.api import call_list_route, call_route
from views.runs.api.run_routes import bp

__all__ = ["bp", "call_list_route", "call_route"]
