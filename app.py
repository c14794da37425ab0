"""Stoa's application factory: settings, extensions, doors, errors and commands, in that order."""

from flask import Flask
from flask_migrate import Migrate
from htmx_flask import Htmx

import models  # noqa: F401  (completes the metadata)
import views
from models.db import db, engine_options
from models.settings import Settings, get_settings

migrate = Migrate(compare_type=True, render_as_batch=False)


def create_app(settings: Settings | None = None, *, database_url: str | None = None) -> Flask:
    """Build the application.

    `database_url` is for callers that started PostgreSQL themselves (the tests); otherwise it is `DATABASE_URL`
    or the embedded server's, which is started when nobody runs it yet.
    """
    settings = settings or get_settings()
    app = Flask(__name__, template_folder="templates", static_folder="static")
    app.config.update(
        SECRET_KEY=settings.secret_key,
        SQLALCHEMY_DATABASE_URI=database_url or settings.database_url or _embedded_url(settings),
        SQLALCHEMY_ENGINE_OPTIONS=engine_options(pool_size=8),
        MAX_CONTENT_LENGTH=20 * 1024 * 1024,
        SESSION_COOKIE_NAME="stoa-flow",
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_COOKIE_SAMESITE="Lax",
        SESSION_COOKIE_SECURE=settings.base_url.startswith("https://"),
    )
    app.extensions["settings"] = settings
    app.url_map.strict_slashes = True
    app.url_map.redirect_defaults = False
    db.init_app(app)
    migrate.init_app(app, db, directory="migrations")
    Htmx(app)
    views.register(app)
    return app


def _embedded_url(settings: Settings) -> str:
    from models.postgres import embedded_url

    return embedded_url(settings.data_dir)
