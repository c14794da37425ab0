"""Tools of a turn: registered ones, those of MCP servers and of this server; who runs them, with which secrets, and what is cut."""

from typing import Any

import orjson
import pytest
from sqlalchemy.orm import Session as OrmSession

from models.assistants import (
    Tool,
    ToolFailed,
    call_tool,
    mcp_client,
    open_toolbox,
    tool_registry,
    tool_secrets,
)
from models.assistants.builtin_tools import register_builtin
from models.assistants.toolbox import Toolbox
from models.core.settings import Settings
from models.ledger import Account
from tests.assistants.conftest import ToolServer
from tests.factories import Person
from tests.fakes.mcp_server import FakeMcpServer

DEEP = b"[" * 900 + b"]" * 900
SECRET = "Bearer key-of-the-tool-1234"
FUNCTION: dict[str, Any] = {
    "type": "function",
    "function": {"name": "mine", "parameters": {"type": "object"}},
}


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """No lists of MCP servers are kept from other tests, and repetitions do not wait."""
    mcp_client._kept.clear()
    monkeypatch.setattr("models.assistants.tool_requests.time.sleep", lambda _: None)


def own(person: Person) -> Account:
    return Account(user_id=person.id)


def add(person: Person, server: ToolServer, **fields: Any) -> Tool:
    url = f"{server.address}/tool"
    return tool_registry.add_tool(person.id, own(person), {"name": "look", "url": url, **fields})


def mcp(server: FakeMcpServer, **fields: Any) -> dict[str, Any]:
    return {"name": "calc", "url": server.url, "headers": {}, "allowed_tools": None, **fields}


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
def test_a_registered_tool_is_called_with_its_arguments_and_secret(
    session: OrmSession, open_network: Settings, alice: Person, tool_server: ToolServer, method: str
) -> None:
    tool_secrets.add_secret(alice.id, own(alice), "key", tool_server.host, SECRET)
    add(alice, tool_server, method=method, headers={"Authorization": "key"}, description="Looks")
    box = open_toolbox(alice.id, ["look", FUNCTION])
    assert [each["function"]["name"] for each in box.definitions()] == ["look", "mine"]
    assert (box.is_server_tool("look"), box.is_server_tool("mine"), box.problems) == (True, False, [])
    found = orjson.loads(box.call("look", '{"q": "a b", "n": [1, 2]}'))
    in_query = method in ("GET", "DELETE")
    assert found["method"] == method
    assert found["query"] == ({"q": "a b", "n": "[1,2]"} if in_query else {})
    assert found["json"] == (None if in_query else {"q": "a b", "n": [1, 2]})
    assert found["authorization"] == "[secret]"
    assert call_tool(alice.id, "look", {}) != ""


def test_the_secret_is_sent_and_never_comes_back(
    session: OrmSession, open_network: Settings, alice: Person, tool_server: ToolServer
) -> None:
    row = tool_secrets.add_secret(alice.id, own(alice), "key", tool_server.host, SECRET)
    assert SECRET not in str(vars(row))
    assert row.hint == "1234"
    add(alice, tool_server, headers={"Authorization": "key"})
    tool_server.body = b"your key-of-the-tool-1234 is fine"
    assert open_toolbox(alice.id, ["look"]).call("look", "{}") == "your [secret] is fine"
    tool_server.body, tool_server.statuses = None, [400]
    with pytest.raises(ToolFailed, match="status 400"):
        call_tool(alice.id, "look", {})
    assert SECRET not in repr(vars(open_toolbox(alice.id, ["look"])))


def test_a_secret_goes_to_its_own_host_only(
    session: OrmSession, open_network: Settings, alice: Person, tool_server: ToolServer
) -> None:
    tool_secrets.add_secret(alice.id, own(alice), "key", "api.example.com", SECRET)
    row = add(alice, tool_server)
    row.headers = {"Authorization": "key"}  # as if the check at saving had missed it
    session.commit()
    for failing in ("key", "gone"):
        row.headers = {"Authorization": failing}
        session.commit()
        with pytest.raises(ToolFailed):
            call_tool(alice.id, "look", {})
    assert tool_server.requests == 0


def test_redirects_are_not_followed_and_failures_are_repeated_as_the_tool_says(
    session: OrmSession, open_network: Settings, alice: Person, tool_server: ToolServer
) -> None:
    add(alice, tool_server, retries=2)
    for statuses, requests, works in (
        ([503, 429, 200], 3, True),
        ([503] * 3, 3, False),
        ([302], 1, False),
        ([500], 1, False),
    ):
        tool_server.statuses, tool_server.requests = list(statuses), 0
        if works:
            assert call_tool(alice.id, "look", {})
        else:
            with pytest.raises(ToolFailed, match=str(statuses[-1])):
                call_tool(alice.id, "look", {})
        assert tool_server.requests == requests


def test_long_answers_are_cut_and_endless_ones_refused(
    session: OrmSession, open_network: Settings, alice: Person, tool_server: ToolServer
) -> None:
    add(alice, tool_server)
    tool_server.body = b"\0\xff" + b"x" * 70_000
    text = call_tool(alice.id, "look", {})
    assert text.startswith("\ufffd\ufffdxx")
    assert text.endswith("[cut: 6,002 more characters]")
    tool_server.body = b"x" * 1_000_001
    with pytest.raises(ToolFailed, match="more than 1,000,000 bytes"):
        call_tool(alice.id, "look", {})
    tool_server.body = b""
    assert call_tool(alice.id, "look", {}) == "(empty)"


def test_private_networks_are_not_reached(
    session: OrmSession, alice: Person, tool_server: ToolServer
) -> None:
    add(alice, tool_server)
    for url in (f"{tool_server.address}/tool", "https://169.254.169.254/latest", "https://[::1]/"):
        tool_registry.change_tool(alice.id, own(alice), session.query(Tool).one().id, {"url": url})
        with pytest.raises(ToolFailed, match="cannot be reached"):
            call_tool(alice.id, "look", {})
    assert tool_server.requests == 0


def test_wrong_arguments_are_told_to_the_model(
    session: OrmSession, alice: Person, tool_server: ToolServer
) -> None:
    add(alice, tool_server, parameters={"type": "object", "required": ["q"], "properties": {"q": {}}})
    for arguments in ("[]", "{", "7", "null", '{"x": 1}', ""):
        with pytest.raises(ToolFailed, match="argument"):
            call_tool(alice.id, "look", arguments)
    with pytest.raises(ToolFailed, match="no tool"):
        call_tool(alice.id, "other", "{}")


def test_another_tenants_tools_are_not_there(
    session: OrmSession, alice: Person, mallory: Person, tool_server: ToolServer
) -> None:
    add(alice, tool_server)
    box = open_toolbox(mallory.id, ["look"])
    assert (box.definitions(), box.problems) == ([], ["The tool 'look' is not there."])


def test_tools_of_the_request_win_by_name(
    session: OrmSession, alice: Person, tool_server: ToolServer
) -> None:
    add(alice, tool_server)
    theirs = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "x": 1}}}
    box = open_toolbox(alice.id, ["look", FUNCTION], request_tools=[theirs])
    assert box.definitions() == [theirs, FUNCTION]
    assert not box.is_server_tool("look")


def test_tools_of_this_server_are_offered_once_a_room_runs_them(
    session: OrmSession, alice: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.assistants.builtin_tools._calls", {})
    assert open_toolbox(alice.id, ["file_search"]).problems
    register_builtin("file_search", lambda context, arguments: f"{context}: {arguments['query']}")
    box = open_toolbox(alice.id, ["file_search"])
    assert box.is_server_tool("file_search")
    assert box.call("file_search", '{"query": "notes"}', "thread") == "thread: notes"
    with pytest.raises(KeyError):
        register_builtin("look", lambda context, arguments: "")


# -- MCP servers ---------------------------------------------------------------------------------------------


@pytest.fixture
def box(session: OrmSession, open_network: Settings, alice: Person, mcp_server: FakeMcpServer) -> Toolbox:
    found = open_toolbox(alice.id, [], [mcp(mcp_server)])
    found.definitions()
    return found


@pytest.mark.parametrize("events", [False, True])
def test_tools_of_an_mcp_server_are_listed_once_and_called(
    session: OrmSession, open_network: Settings, alice: Person, mcp_server: FakeMcpServer, events: bool
) -> None:
    mcp_server.events = events
    box = open_toolbox(alice.id, [], [mcp(mcp_server)])
    assert [each["function"]["name"] for each in box.definitions()] == [
        "calc__add",
        "calc__fail",
        "calc__echo",
    ]
    assert box.definitions()[0]["function"]["parameters"]["required"] == ["a", "b"]
    assert box.call("calc__add", '{"a": 2, "b": 3}') == "5"
    with pytest.raises(ToolFailed, match="no"):
        box.call("calc__fail", "{}")
    seen = box.call("calc__echo", "{}")
    assert "[image: not shown]" in seen
    again = open_toolbox(alice.id, [], [mcp(mcp_server, allowed_tools=["add"])])
    assert [each["function"]["name"] for each in again.definitions()] == ["calc__add"]
    assert again.call("calc__add", {"a": 1, "b": 1}) == "2"
    assert mcp_server.methods == [
        "initialize",
        "notifications/initialized",
        *["tools/list"] * 2,
        *["tools/call"] * 4,
    ]
    headers = mcp_server.requests[-1][1]
    assert (headers["Mcp-Protocol-Version"], headers["Mcp-Session-Id"]) == ("2025-06-18", "session-1")


def test_the_list_belongs_to_one_account_and_its_secrets(
    session: OrmSession, open_network: Settings, alice: Person, mallory: Person, mcp_server: FakeMcpServer
) -> None:
    tool_secrets.add_secret(alice.id, own(alice), "key", mcp_server.host, SECRET)
    secret = {"headers": {"Authorization": "key"}}
    for account, fields, lists in (
        (alice.id, {}, 1),
        (alice.id, secret, 2),
        (mallory.id, {}, 3),
        (alice.id, {}, 3),
    ):
        open_toolbox(account, [], [mcp(mcp_server, **fields)]).definitions()
        assert mcp_server.methods.count("initialize") == lists
    theirs = open_toolbox(mallory.id, [], [mcp(mcp_server, **secret)])
    assert (theirs.definitions(), theirs.problems) == ([], ["The secret 'key' of this tool is gone."])
    assert mcp_server.requests[-2][1].get("Authorization") != SECRET
    assert any(headers.get("Authorization") == SECRET for _, headers in mcp_server.requests)


def test_an_ended_session_is_opened_again(box: Toolbox, mcp_server: FakeMcpServer) -> None:
    mcp_server.sessions.clear()
    assert box.call("calc__add", '{"a": 1, "b": 2}') == "3"
    assert mcp_server.methods.count("initialize") == 2


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[]",
        b"7",
        b'{"id": 1}',
        b'{"id": 2, "result": {}}',
        b'{"id": 1, "error": {"message": "x"}}',
        b'{"id": 1, "error": {"message": ' + DEEP + b"}}",
    ],
)
def test_a_broken_mcp_server_offers_nothing(
    session: OrmSession, open_network: Settings, alice: Person, mcp_server: FakeMcpServer, raw: bytes
) -> None:
    mcp_server.raw = raw
    box = open_toolbox(alice.id, [FUNCTION], [mcp(mcp_server)])
    assert box.definitions() == [FUNCTION]
    assert "The MCP server 'calc' failed" in box.problems[0]


@pytest.mark.parametrize("result", [b'{"structuredContent": %b}', b'{"content": [{"type": %b, "uri": 7}]}'])
def test_an_answer_that_is_nested_too_deeply_is_no_answer(
    box: Toolbox, mcp_server: FakeMcpServer, result: bytes
) -> None:
    mcp_server.raw = b'{"id": 1, "result": %b}' % (result % DEEP)
    try:
        text = box.call("calc__echo", "{}")
    except ToolFailed as failed:
        text = failed.message
    assert text in ("The answer of the tool is nested too deeply to be read.", "[: not shown]")


def test_a_server_that_takes_too_long_to_list_its_tools_offers_nothing(
    session: OrmSession,
    open_network: Settings,
    alice: Person,
    mcp_server: FakeMcpServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mcp_client, "LISTING_SECONDS", 0)
    box = open_toolbox(alice.id, [FUNCTION], [mcp(mcp_server)])
    assert box.definitions() == [FUNCTION]
    assert "takes too long to list its tools" in box.problems[0]


def test_arguments_that_are_nested_too_deeply_are_refused(box: Toolbox, mcp_server: FakeMcpServer) -> None:
    with pytest.raises(ToolFailed, match="nested more than 32 levels"):
        box.call("calc__echo", f'{{"a": {DEEP.decode()}}}')
    assert "tools/call" not in mcp_server.methods


def test_unusable_tools_of_an_mcp_server_are_left_out(
    session: OrmSession, open_network: Settings, alice: Person, mcp_server: FakeMcpServer
) -> None:
    mcp_server.tools = [
        {"name": "good one"},
        {"name": "x" * 64},
        {"name": 7},
        "text",
        {"name": "wrong", "inputSchema": {"type": "string"}},
        {"name": "fine", "description": 7},
        {"name": "fine"},
        *({"name": f"t{number}"} for number in range(200)),
    ]
    mcp_server.page_size = 300
    box = open_toolbox(alice.id, [FUNCTION], [mcp(mcp_server)])
    names = [each["function"]["name"] for each in box.definitions()]
    assert names[:3] == ["mine", "calc__fine", "calc__t0"]
    assert len(names) <= 128
    assert len(box.problems) == 3


def test_an_unreachable_mcp_server_offers_nothing(
    session: OrmSession, alice: Person, mcp_server: FakeMcpServer
) -> None:
    box = open_toolbox(alice.id, [], [mcp(mcp_server)])
    assert (box.definitions(), len(box.problems)) == ([], 1)
    assert mcp_server.requests == []
