"""Pages of models and of provider keys."""

from views.gateway.pages import provider_key_pages
from views.gateway.pages.model_list import bp

__all__ = ["bp", "provider_key_pages"]
