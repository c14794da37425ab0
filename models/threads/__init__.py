"""Threads: trees of messages with models and assistants."""

from models.threads.assistant_call import AssistantCalls
from models.threads.thread import Thread, ThreadMessage, ThreadShare
from models.threads.thread_settings import change_thread, create_thread, delete_thread, restore_thread
from models.threads.thread_turn import ThreadTurns
from models.threads.thread_turn_start import TurnRequest, ask
from models.threads.tree import (
    append,
    fill,
    lock,
    message_json,
    message_of,
    newest_below,
    own_thread,
    path,
    select_branch,
    siblings,
)

__all__ = [
    "AssistantCalls",
    "Thread",
    "ThreadMessage",
    "ThreadShare",
    "ThreadTurns",
    "TurnRequest",
    "append",
    "ask",
    "change_thread",
    "create_thread",
    "delete_thread",
    "fill",
    "lock",
    "message_json",
    "message_of",
    "newest_below",
    "own_thread",
    "path",
    "restore_thread",
    "select_branch",
    "siblings",
]
