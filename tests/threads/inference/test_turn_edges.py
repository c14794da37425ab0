"""Turns at their edges: stopped while they wait, resumed while their thread still ends, failing on our side, with text that nothing stores."""

from flask.testing import FlaskClient

from tests.factories import Person
from tests.threads.inference.conftest import Turns


def test_a_queued_turn_is_stopped_while_its_branch_is_busy(
    turns: Turns, web: FlaskClient, alice: Person
) -> None:
    busy = turns.ask(budget=1)
    assert busy.state == "paused"
    waiting = turns.begin("And then?", on_busy="queue")
    answer = web.post(f"/api/v1/turns/{waiting.id}/stop", headers={"Authorization": f"Bearer {alice.token}"})
    assert (answer.status_code, answer.json["state"]) == (200, "cancelled")
    assert [type for type, _ in turns.events(waiting)] == ["turn.cancelled"]
    assert turns.after(busy).state == "paused"
