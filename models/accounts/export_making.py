"""Makes the ZIP file of an export: written to the file storage in parts of 8 MB, so memory and transactions stay small."""

import logging
from collections.abc import Iterator
from datetime import timedelta

from models.accounts import data_exports
from models.accounts.data_exports import FOLDER, ExportTask
from models.accounts.users import User
from models.core import mail
from models.core.db import db, now
from models.core.files import Files
from models.core.jobs import transaction
from models.core.mail import moment_text
from models.core.personal_export import ExportFile, export_files, readme
from models.core.settings import Settings
from models.core.zip_stream import zipped

log = logging.getLogger("stoa.exports")

PART = 8 << 20  # bytes
NOTE_EVERY = timedelta(seconds=2)
README = "README.txt"
HEAD = """
Your data on Stoa
=================

{email}, {made}, from {url}

CSV files are UTF-8 with a header line; text that a spreadsheet would take for a formula starts with an apostrophe. In .jsonl files
every line is one JSON object. Times are UTC. Credits are exact; dollars (cost_usd) are what the provider charged. An empty value
means that there is none.

What an organisation pays for belongs to it: its owners export its calls, runs and statement on its settings page. Secrets are in no
file: keys and sessions are named by their last characters.

Files
-----
"""


class ExportAbandoned(Exception):
    """Nobody waits for this attempt any more."""


def make_export(id: str, files: Files, settings: Settings) -> None:
    """Make the export, store it and tell the user by mail. Commits several times.

    A repetition starts again from the first file and overwrites its parts; a finished export stays. Raises whatever went wrong,
    for another attempt by the queue, until the last attempt has failed.
    """
    contents = export_files()
    with transaction():
        task = data_exports.begin(id, len(contents) + 1, now())
    if task is None:
        return
    try:
        _Making(task, files, contents, settings).run()
    except ExportAbandoned:
        log.info("export %s is no longer wanted", id)
    except Exception:
        with transaction():
            last = data_exports.give_up(task, now())
        if not last:
            raise
        log.exception("export %s failed for the last time", id)


class _Making:
    """One attempt."""

    def __init__(
        self, task: ExportTask, files: Files, contents: list[ExportFile], settings: Settings
    ) -> None:
        self.task, self.files, self.contents, self.settings = task, files, contents, settings
        self.step, self.size, self.parts = 0, 0, 0
        self.noted = now()

    def run(self) -> None:
        """Write all parts, then offer them."""
        with transaction():
            user = db.session.get(User, self.task.user_id)
            email = user.email if user else ""
        texts = {README: iter([self._readme(email)])}
        texts |= {each.name: self._counted(each) for each in self.contents}
        pending = bytearray()
        for piece in zipped(texts):
            pending += piece
            while len(pending) >= PART:
                self._write(bytes(pending[:PART]))
                del pending[:PART]
            self._note(len(pending))
        self._write(bytes(pending))
        with transaction():
            moment = now()
            if not data_exports.finish(self.task, parts=self.parts, size=self.size, now=moment):
                raise ExportAbandoned
            values = {"until": moment_text(moment + data_exports.KEPT)}
            mail.send(self.settings, mail.composed(email, "export_ready", values))

    def _readme(self, email: str) -> str:
        head = HEAD.format(email=email, made=moment_text(now()), url=self.settings.base_url)
        return readme(self.contents, head)

    def _counted(self, file: ExportFile) -> Iterator[str]:
        self.step += 1
        yield from file.chunks(self.task.user_id)

    def _write(self, part: bytes) -> None:
        self.files.write(data_exports.part_path(self.task.id, self.parts), part)
        self.parts += 1
        self.size += len(part)

    def _note(self, pending: int) -> None:
        moment = now()
        if moment - self.noted < NOTE_EVERY:
            return
        self.noted = moment
        with transaction():
            wanted = data_exports.note_progress(self.task, self.step, self.size + pending, moment)
        if not wanted:
            raise ExportAbandoned


def remove_old(files: Files) -> None:
    """End exports that are a week old, and remove files that belong to none. Commits. Idempotent. Raises FilesUnavailable."""
    with transaction():
        data_exports.expire_exports(now())
    stored = files.names(FOLDER)
    with transaction():
        unwanted = data_exports.unwanted_files(stored, now())
    for name in unwanted:
        files.remove(f"{FOLDER}/{name}")
