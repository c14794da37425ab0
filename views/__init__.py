"""The doors of Stoa. `register` is the one visible list of what is mounted where."""

from flask import Flask

from views import errors, format, guards, htmx, look, pages, profile
from views.api import openapi


def register(app: Flask) -> None:
    """Mount every door on the application."""
    htmx.init_app(app)
    format.init_app(app)
    guards.init_app(app)
    errors.init_app(app)
    look.init_app(app)
    app.register_blueprint(pages.bp)
    app.register_blueprint(profile.bp)
    app.register_blueprint(openapi.bp)
