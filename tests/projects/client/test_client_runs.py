"""Snapshots of the client in the run of an agent, which it finds in its environment."""

import pytest

from tests import factories
from tests.factories import Person
from tests.projects.client.client_shell import Shell
from tests.projects.project_calls import ProjectsApi

pytestmark = pytest.mark.usefixtures("proved")


def test_snapshots_name_the_run_of_the_environment(
    shell: Shell, mine: ProjectsApi, alice: Person, mallory: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert alice.user
    assert mallory.user
    own, other = factories.run(alice.user).id, factories.run(mallory.user).id
    shell.put("a", "1")
    shell("init")
    for number, run_id in enumerate((own, other, "")):
        shell.put("a", f"2{number}")
        monkeypatch.setenv("STOA_RUN_ID", run_id)
        made = shell("snapshot")
        assert made["sent"]
        detail = mine("get", f"/snapshots/{made['snapshot_id']}")[1]["snapshot"]
        assert detail["run_id"] == (own if run_id == own else None)
    monkeypatch.setenv("STOA_RUN_ID", other)
    shell.put("a", "3")
    assert f"does not name the run {other}" in shell.text("snapshot")
