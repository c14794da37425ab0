"""JSON API of the map of projects (fastest contract 3.14)."""

from views.atlas.api import atlas_routes, correction_routes, symbol_routes, words_routes
from views.atlas.api.atlas_api_blueprint import bp

__all__ = ["atlas_routes", "bp", "correction_routes", "symbol_routes", "words_routes"]
