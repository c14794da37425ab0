"""Words of a model and of a person about a project as a whole, for pages of `project_rows`."""

from datetime import UTC, datetime

from models.atlas import AtlasCorrection, AtlasWords
from models.core.db import db

SHA = "0" * 64


def words_rows(ids: dict[str, str]) -> dict[str, str]:
    """Make them in the current transaction: sentences whose file has changed, and a correction that holds."""
    cited = {"path": "README.md", "line": 1, "end_line": 3, "symbol": None}
    moment = datetime(2026, 11, 30, tzinfo=UTC)
    words = AtlasWords(
        project_id=ids["project_id"],
        subject="project",
        sentences=[{"text": "It counts columns. " + "x" * 300, "citations": [cited, cited]}] * 3,
        cited={"README.md": SHA},
        cut=2,
        model="stoa/demo",
        micro_credits=420_000,
        written_at=moment,
    )
    correction = AtlasCorrection(
        project_id=ids["project_id"],
        subject="project",
        other="",
        field="description",
        value="A pier.\n\n" + "y" * 300,
        current=True,
        created_at=moment,
    )
    db.session.add_all([words, correction])
    db.session.flush()
    return {"correction_id": correction.id}
