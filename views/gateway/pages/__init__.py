"""Pages of models: the list, one model, and the guide to clients."""

from views.gateway.pages import model_page
from views.gateway.pages.model_list import bp

__all__ = ["bp", "model_page"]
