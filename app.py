"""The application factory."""

import gc
import sys

gc.disable()  # until the application is made: collecting while the modules load would take a fifth of the start

from click import ClickException
from flask import Flask
from htmx_flask import Htmx
from werkzeug.middleware.proxy_fix import ProxyFix

import models  # noqa: F401  (completes the metadata)
import views
from models.core.db import db, engine_options
from models.core.postgres import PostgresError, embedded_url
from models.core.settings import PAGES_POOL, ROOT, Settings, SettingsError, get_settings
from views.web import fast_path, logs
from views.web.body import MAX_FORM_BYTES
from views.web.url_rules import LazyRule


def create_app(
    settings: Settings | None = None, *, database_url: str | None = None, migrations: bool = True
) -> Flask:
    """Create the application.

    `database_url` overrides `DATABASE_URL`, for tests. With neither, the embedded PostgreSQL is used, and started if it is
    not running. Web workers leave out `migrations`: Alembic would take each a tenth of its start, and 9 MB. Raises
    ClickException for an invalid setting or an unavailable embedded server.
    """
    try:
        return _assemble(settings or get_settings(), database_url, migrations)
    except (SettingsError, PostgresError) as error:
        # Errors that the operator can fix are printed without a traceback.
        raise ClickException(str(error)) from None
    finally:
        gc.enable()


def _assemble(settings: Settings, database_url: str | None, migrations: bool) -> Flask:
    logs.init_app(settings.secrets())
    app = Flask(__name__, template_folder="templates", static_folder="static")
    app.url_rule_class = LazyRule
    app.config.update(
        SECRET_KEY=settings.secret_key,
        SQLALCHEMY_DATABASE_URI=database_url or settings.database_url or _embedded_url(settings),
        SQLALCHEMY_ENGINE_OPTIONS=engine_options(pool_size=PAGES_POOL),
        MAX_CONTENT_LENGTH=fast_path.MAX_BODY_BYTES,
        MAX_FORM_MEMORY_SIZE=MAX_FORM_BYTES,
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_COOKIE_SAMESITE="Lax",
    )
    app.extensions["settings"] = settings
    app.url_map.strict_slashes = True
    app.url_map.redirect_defaults = False
    db.init_app(app)
    if migrations:
        _add_migrations(app)
    Htmx(app)
    views.register(app)
    if settings.stoa_proxies:
        app.wsgi_app = ProxyFix(  # type: ignore[method-assign]
            app.wsgi_app, x_for=settings.stoa_proxies, x_proto=settings.stoa_proxies
        )
    return app


def _add_migrations(app: Flask) -> None:
    from flask_migrate import Migrate

    Migrate(app, db, directory=str(ROOT / "migrations"), compare_type=True, render_as_batch=False)


def _embedded_url(settings: Settings) -> str:
    if "--help" in sys.argv or sys.argv[1:3] == ["billing", "verify"]:
        return "postgresql+psycopg://"  # never connected to: neither needs a server
    if sys.argv[1:2] == ["serve"]:
        logs.show_progress()
    return embedded_url(settings.data_dir, max_connections=settings.connections_needed)
