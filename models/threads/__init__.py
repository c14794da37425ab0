"""Threads: trees of messages with models and assistants."""

from models.threads import exported_threads as exported_threads  # its files of the export
from models.threads import purging as purging  # its receiver
from models.threads.assistant_call import AssistantCalls
from models.threads.exported_threads import thread_json
from models.threads.thread import Thread, ThreadMessage
from models.threads.thread_settings import change_thread, create_thread, delete_thread, restore_thread
from models.threads.thread_share import ThreadShare
from models.threads.thread_turn import ThreadTurns
from models.threads.thread_turn_start import TurnRequest, ask
from models.threads.tree import (
    add_message,
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
    walk,
)

__all__ = [
    "AssistantCalls",
    "Thread",
    "ThreadMessage",
    "ThreadShare",
    "ThreadTurns",
    "TurnRequest",
    "add_message",
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
    "thread_json",
    "walk",
]
