"""The doors of Stoa. `register` is the one visible list of what is mounted where."""

from flask import Flask

from views import (
    accounts,
    addresses,
    cors,
    errors,
    format,
    gateway,
    guards,
    health,
    htmx,
    lane,
    look,
    pages,
    profile,
    runs,
    usage,
)
from views.accounts import providers
from views.api import accounts as accounts_api
from views.api import agents as agents_api
from views.api import gateway as gateway_api
from views.api import openapi
from views.api import publishers as publishers_api
from views.api import runs as runs_api
from views.api import store as store_api
from views.api import usage as usage_api
from views.api.body import keep_strangers_small
from views.cli import accounts as accounts_commands
from views.cli import billing as billing_commands
from views.cli import demo as demo_commands
from views.cli import gateway as gateway_commands
from views.cli import serve
from views.cli import store as store_commands
from views.cli import usage as usage_commands
from views.store import agent, avatars, feeds, publishers, readme, shelf, versions


def register(app: Flask) -> None:
    """Mount every door on the application."""
    htmx.init_app(app)
    format.init_app(app)
    guards.init_app(app, keep_strangers_small)
    addresses.init_app(app)
    errors.init_app(app)
    look.init_app(app)
    serve.init_app(app)
    accounts_commands.init_app(app)
    providers.init_app(app)
    billing_commands.init_app(app)
    gateway_commands.init_app(app)
    usage_commands.init_app(app)
    store_commands.init_app(app)
    demo_commands.init_app(app)
    app.register_blueprint(pages.bp)
    app.register_blueprint(profile.bp)
    app.register_blueprint(openapi.bp)
    app.register_blueprint(runs.bp)
    app.register_blueprint(runs_api.bp)
    app.register_blueprint(store_api.bp)
    app.register_blueprint(accounts.bp)
    app.register_blueprint(accounts_api.bp)
    app.register_blueprint(usage.bp)
    app.register_blueprint(usage_api.bp)
    app.register_blueprint(publishers_api.bp)
    app.register_blueprint(avatars.bp)
    app.register_blueprint(agent.bp)
    app.register_blueprint(agents_api.bp)
    app.register_blueprint(publishers.bp)
    app.register_blueprint(readme.bp)
    app.register_blueprint(versions.bp)
    app.register_blueprint(shelf.bp)
    app.register_blueprint(feeds.bp)
    gateway.init_app(app)
    app.register_blueprint(gateway_api.bp)
    lane.init_app(app)
    cors.init_app(app)
    app.register_blueprint(health.bp)
