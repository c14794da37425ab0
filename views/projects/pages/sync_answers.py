"""The answers to the decisions of a sync, as the form of its preview sends them: `choice-1`, `text-1` and so on, and `rest`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from flask import request

from models.projects import SyncPreview
from models.projects.merge import CUSTOM, USE_MAIN, USE_WORKSPACE
from models.projects.sync.sync_reading import StoredSync
from models.projects.sync.sync_review import own_texts
from views.projects.pages.project_blueprint import entered

RESTS = ("", USE_MAIN, USE_WORKSPACE)


@dataclass(frozen=True, slots=True)
class SyncAnswers:
    """By path what was chosen, and one's own texts; `rest` is chosen for all decisions without a choice, empty for none."""

    chosen: Mapping[str, str]
    own: Mapping[str, str]
    rest: str

    @classmethod
    def read(cls, preview: SyncPreview) -> Self:
        """From the form, whose fields count the decisions of the plan from 1."""
        chosen, own = {}, {}
        for number, each in enumerate(preview.plan["decisions"], start=1):
            if choice := entered(f"choice-{number}"):
                chosen[each["path"]] = choice
            if f"text-{number}" in request.form:
                own[each["path"]] = entered(f"text-{number}")
        rest = entered("rest")
        return cls(chosen, own, rest if rest in RESTS else "")

    def missing(self, preview: SyncPreview) -> list[str]:
        """The paths without an answer."""
        if self.rest:
            return []
        return [each["path"] for each in preview.plan["decisions"] if each["path"] not in self.chosen]

    def problems(self, preview: SyncPreview) -> dict[str, str]:
        """What is missing or wrong, by path."""
        found = dict.fromkeys(self.missing(preview), "Choose one.")
        for each in preview.plan["decisions"]:
            choice = self.chosen.get(each["path"])
            options = [*each["options"], *([CUSTOM] if each["custom_mode"] is not None else [])]
            if choice is not None and choice not in options:
                found[each["path"]] = "Choose one of these."
            if choice == CUSTOM and not self.own.get(each["path"], "").strip():
                found[each["path"]] = "Enter the text of the file."
        return found

    def decisions(self, preview: SyncPreview) -> dict[str, str]:
        """An option for each path."""
        paths = [each["path"] for each in preview.plan["decisions"]]
        return {path: self.chosen.get(path) or self.rest for path in paths}

    def texts(self, stored: StoredSync) -> dict[str, str]:
        """One's own texts of the files where they were chosen."""
        mine = {path: text for path, text in self.own.items() if self.chosen.get(path) == CUSTOM}
        return own_texts(stored, mine) if mine else {}
