"""Pages of models (the list, one model, the guide to clients) and of provider keys."""

from views.gateway.pages import model_page, provider_key_pages
from views.gateway.pages.model_list import bp

__all__ = ["bp", "model_page", "provider_key_pages"]
