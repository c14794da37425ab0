"""Test pages for all components: the real application plus `/kit`, without a database."""

import re
from pathlib import Path
from types import SimpleNamespace

from flask import Flask, Response, abort, g, request, send_file
from jinja2 import ChoiceLoader, FileSystemLoader

from app import create_app
from models.core.settings import ROOT, load_settings
from tests.web.kit.charts import NOW, sample_charts, wave
from views.web import pages
from views.web.htmx import render, toast, wants_fragment

HERE = Path(__file__).parent
ICONS = re.findall(r'<symbol id="(?!kind-)([^"]+)"', Path(ROOT, "static/img/icons.svg").read_text())
NO_DATABASE = "postgresql://nobody@127.0.0.1:1/nothing"
ALICE = SimpleNamespace(
    id="alice", name="Alice Marsh", display_name="Alice Marsh", email="alice@example.org", theme="system"
)


def kit_app(data_dir: Path) -> Flask:
    """The application with the kit's routes; `?as=alice` or `?as=demo` renders a page signed in."""
    settings = load_settings(
        _env_file=None,
        stoa_data_dir=data_dir,
        stoa_secret_key="k" * 40,
        stoa_base_url="http://localhost:8000",
    )
    app = create_app(settings, database_url=NO_DATABASE)
    loader = app.jinja_env.loader
    assert loader is not None
    app.jinja_env.loader = ChoiceLoader([loader, FileSystemLoader(HERE / "templates")])
    app.jinja_env.globals["switch_targets"] = lambda viewer: []  # reads the database

    @app.context_processor
    def signed_in() -> dict[str, object]:
        who = "alice" if request.path.startswith("/kit-panel") else request.args.get("as")
        if who is None or g.get("bug"):
            return {"viewer": None, "credit_chip": None, "sees_demo": False}
        return {"viewer": ALICE, "credit_chip": 4770, "sees_demo": who == "demo"}

    def landing() -> Response:
        days = [wave(i, 40, 2) for i in range(30)] if "demo" in request.args else None
        return pages.render_landing(days, None)

    app.view_functions["pages.landing"] = landing

    @app.get("/kit")
    def kit() -> Response:
        layout = f"layouts/{request.args.get('layout', 'public')}.html"
        return render("kit/kit.html", layout=layout, when=NOW, icons=ICONS)

    @app.get("/dialog")
    def dialog() -> Response:
        return render("kit/dialog.html", partial="kit/_dialog.html")

    @app.get("/kit-charts")
    def charts() -> Response:
        return render("kit/charts.html", **sample_charts())

    @app.get("/kit-panel")
    def kit_panel() -> Response:
        return render("kit/panel.html", partial="kit/panel.html")

    @app.get("/kit-panel/<int:number>")
    def kit_row(number: int) -> Response:
        if number > 8:
            abort(404)
        return render("kit/row.html", partial="kit/_row.html", number=number, fragment=wants_fragment())

    @app.get("/kit-toast")
    def kit_toast() -> Response:
        toast("Key revoked.")
        return render("kit/kit.html", partial="kit/_dialog.html", layout="layouts/public.html", when=NOW)

    @app.get("/kit-fault/<int:status>")
    def fault(status: int) -> Response:
        if status == 500:
            raise RuntimeError("test error")
        abort(status)

    @app.get("/kit.css")
    def kit_css() -> Response:
        return send_file(HERE / "kit.css")

    return app
