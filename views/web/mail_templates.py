"""Rendering of the templates of e-mails: outside requests, with times in UTC and English numbers."""

from typing import Any

from flask import Flask, current_app
from werkzeug.routing import BuildError

from views.web.viewer_locale import plain_formats


def init_app(app: Flask) -> None:
    """Let the domain render e-mails (`models.core.mail.composed`)."""
    app.extensions["mail_template"] = render_mail


def render_mail(template: str, **values: Any) -> str:
    """Render a template of an e-mail. It may call `link(endpoint, **values)`: the URL of a page, or None if this server has no
    such page."""

    def link(endpoint: str, **arguments: Any) -> str | None:
        try:
            path = current_app.url_map.bind("").build(endpoint, arguments, force_external=False)
        except BuildError:
            return None
        return f"{values['base_url']}{path}"

    with plain_formats():
        return current_app.jinja_env.get_template(template).render(values, link=link)
