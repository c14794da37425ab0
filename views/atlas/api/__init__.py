"""JSON API of the map of projects (fastest contract 3.14)."""

from views.atlas.api import atlas_routes, symbol_routes
from views.atlas.api.atlas_api_blueprint import bp

__all__ = ["atlas_routes", "bp", "symbol_routes"]
