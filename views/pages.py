"""The pages that belong to no room: the front, the addresses that moved (contract section 2.15), robots.txt."""

from flask import Blueprint, Response, current_app, redirect
from flask.typing import ResponseReturnValue

from views.guards import settings
from views.htmx import render

bp = Blueprint("pages", __name__)

MOVED = {
    "/usage": "/profile?tab=usage",
    "/api-keys": "/profile?tab=api-keys",
    "/docs": "/docs/api",
}


@bp.get("/")
def landing() -> Response:
    """What Stoa is, how to point a client at this server, and what to know before installing one."""
    return render("landing.html")


@bp.get("/usage")
def usage() -> ResponseReturnValue:
    """Moved for good: 308."""
    return redirect(MOVED["/usage"], 308)


@bp.get("/api-keys")
def api_keys() -> ResponseReturnValue:
    """Moved for good: 308."""
    return redirect(MOVED["/api-keys"], 308)


@bp.get("/docs")
def docs() -> ResponseReturnValue:
    """The documentation starts at the API page; 307, because a start page of its own may come."""
    return redirect(MOVED["/docs"], 307)


@bp.get("/favicon.ico")
def favicon() -> Response:
    """Browsers ask for this whatever the page says."""
    return current_app.send_static_file("img/favicon.svg")


@bp.get("/robots.txt")
def robots() -> Response:
    """Public pages may be indexed; signed-in pages and the API hold nothing for a crawler."""
    lines = [
        "User-agent: *",
        "Disallow: /api/",
        "Disallow: /v1/",
        "Disallow: /profile",
        "Disallow: /runs",
        "Disallow: /login",
        f"Sitemap: {settings().base_url}/sitemap.xml",
        "",
    ]
    return Response("\n".join(lines), mimetype="text/plain")


@bp.get("/sitemap.xml")
def sitemap() -> Response:
    """The public pages of this server."""
    base = settings().base_url
    urls = "".join(f"<url><loc>{base}{path}</loc></url>" for path in ("/", "/docs/api"))
    body = f'<?xml version="1.0" encoding="UTF-8"?>\n<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">{urls}</urlset>\n'
    return Response(body, mimetype="application/xml")
