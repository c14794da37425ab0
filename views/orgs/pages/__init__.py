"""Pages of organisations. Each module adds its views to the blueprint `orgs`."""

from views.orgs.pages import founding, overview, team
from views.orgs.pages.orgs_blueprint import bp

__all__ = ["bp", "founding", "overview", "team"]
