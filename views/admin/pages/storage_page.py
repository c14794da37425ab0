"""`/admin/storage`: sizes of tables and files, free disk space, and what retention removes."""

import shutil

from flask.typing import ResponseReturnValue

from models.admin import storage_review
from models.admin.job_review import scheduled_tasks
from models.admin.retention import retention
from models.core.db import now
from views.admin.pages.admin_blueprint import bp
from views.web import format
from views.web.guards import admin_required, settings
from views.web.htmx import render

UNITS = ("bytes", "kB", "MB", "GB", "TB")


@bp.get("/storage")
@admin_required
def storage() -> ResponseReturnValue:
    """Tables, files, disk and retention."""
    moment = now()
    folder = settings().data_dir
    disk = shutil.disk_usage(folder if folder.exists() else folder.parent)
    return render(
        "admin/storage.html",
        tables=storage_review.table_sizes(moment),
        limit=storage_review.SHOWN,
        database=storage_review.database_bytes(),
        files=storage_review.last_files(),
        remote=bool(settings().stoa_files_url),
        disk=disk,
        rules=retention({each.task: each for each in scheduled_tasks(moment)}),
        size=size,
    )


def size(count: int) -> str:
    """Bytes in the largest unit (powers of 1000): `812 bytes`, `38.4 MB`, `−1.2 GB`."""
    sign, value, unit = "−" if count < 0 else "", float(abs(count)), 0
    while value >= 1000 and unit < len(UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{sign}{format.number(value, 1 if unit > 1 and value < 100 else 0)} {UNITS[unit]}"
