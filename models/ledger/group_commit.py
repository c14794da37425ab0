"""Group commit: batches concurrent ledger operations into one statement and one commit.

There is no batching delay. A caller runs at once while a slot is free; callers that arrive while all slots are busy
queue up, and the next free slot takes them as one batch. An idle server pays nothing extra, a busy one pays less per
call.
"""

import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class _PendingItem(Generic[Item, Answer]):
    __slots__ = ("answer", "answered", "followers", "is_leader", "item", "ready")

    def __init__(self, item: Item) -> None:
        self.item = item
        self.answer: Answer
        self.answered = False
        self.is_leader = False
        self.followers: list[_PendingItem[Item, Answer]] = []
        self.ready = threading.Event()


class GroupCommit(Generic[Item, Answer]):
    """Calls `one` for a single item and `many` for a batch of at most `max_batch`, with at most `max_concurrent`
    statements at once. After `max_wait` seconds a waiting caller runs anyway, with everyone queued behind it: a
    statement that hangs on one account's lock delays other accounts no longer than that.

    `one` and `many` must be idempotent: when a batch fails (one bad call, a lock timeout, a lost connection), each of
    its items is retried alone with its own timeout, so no caller fails because of another. Safe for threads and
    greenlets; a caller that is killed while waiting leaves the queue and releases its slot.
    """

    def __init__(
        self,
        one: Callable[[Item], Answer],
        many: Callable[[list[Item]], list[Answer]],
        *,
        max_concurrent: int = 1,
        max_batch: int = 32,
        max_wait: float = 0.25,
    ) -> None:
        self._one = one
        self._many = many
        self._max_batch = max_batch
        self._max_wait = max_wait
        self._free = max_concurrent
        self._waiting: deque[_PendingItem[Item, Answer]] = deque()
        self._lock = threading.Lock()

    def __call__(self, item: Item) -> Answer:
        """Run `item`, alone or in a batch, and return its answer. Raises what `one` raises for it."""
        with self._lock:
            pending = None if self._free > 0 else _PendingItem[Item, Answer](item)
            if pending is None:
                self._free -= 1
            else:
                self._waiting.append(pending)
        if pending is None:
            try:
                return self._one(item)
            finally:
                self._release_slot()
        self._wait(pending)
        if pending.is_leader:
            return self._lead(pending)
        # unanswered: its batch failed
        return pending.answer if pending.answered else self._one(item)

    def _wait(self, pending: _PendingItem[Item, Answer]) -> None:
        try:
            if not pending.ready.wait(self._max_wait) and not self._promote(pending):
                pending.ready.wait()
        except BaseException:
            with self._lock:
                is_leader = pending.is_leader
                if not is_leader and pending in self._waiting:
                    self._waiting.remove(pending)
            if is_leader:
                self._finish(pending)
            raise

    def _promote(self, pending: _PendingItem[Item, Answer]) -> bool:
        with self._lock:
            if pending not in self._waiting:
                return False
            self._waiting.remove(pending)
            self._free -= 1
            self._collect_batch(pending)
        return True

    def _collect_batch(self, leader: _PendingItem[Item, Answer]) -> None:
        while self._waiting and len(leader.followers) < self._max_batch - 1:
            leader.followers.append(self._waiting.popleft())
        leader.is_leader = True

    def _lead(self, leader: _PendingItem[Item, Answer]) -> Answer:
        try:
            if not leader.followers:
                return self._one(leader.item)
            try:
                answers = self._many([leader.item, *(each.item for each in leader.followers)])
            except Exception:
                self._wake_followers(leader)
                return self._one(leader.item)
            for each, answer in zip(leader.followers, answers[1:], strict=True):
                each.answer = answer
                each.answered = True
            return answers[0]
        finally:
            self._finish(leader)

    def _wake_followers(self, leader: _PendingItem[Item, Answer]) -> None:
        followers, leader.followers = leader.followers, []
        for each in followers:
            each.ready.set()

    def _finish(self, leader: _PendingItem[Item, Answer]) -> None:
        self._wake_followers(leader)
        self._release_slot()

    def _release_slot(self) -> None:
        with self._lock:
            if not self._waiting:
                self._free += 1
                return
            leader = self._waiting.popleft()
            self._collect_batch(leader)
        leader.ready.set()
