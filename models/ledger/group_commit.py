"""What waits for the ledger at the same moment goes to it together: one statement and one commit for several calls.

Nobody waits for company. While no statement is under way an asker goes at once and alone; others gather behind it, and
the next turn takes all who wait. So a quiet server adds nothing, and a busy one pays less per call.
"""

import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class _PendingItem(Generic[Item, Answer]):
    __slots__ = ("answer", "answered", "followers", "item", "leads", "woken")

    def __init__(self, item: Item) -> None:
        self.item = item
        self.answer: Answer
        self.answered = False
        self.leads = False
        self.followers: list[_PendingItem[Item, Answer]] = []
        self.woken = threading.Event()


class GroupCommit(Generic[Item, Answer]):
    """Asks `one` for a single item and `many` for several, at most `under_way` statements at once and `most` in each.
    Who waited `patience` seconds goes all the same, with all others who wait: a statement that hangs on one account's
    lock holds up nobody else for longer.

    Both must be idempotent: what failed together (one bad call, a lock held too long, a lost connection) is asked
    again one by one, each with its own patience, so that nobody fails for another's sake. Safe for threads and
    greenlets; one that is killed while it waits leaves the queue, and passes its turn on.
    """

    def __init__(
        self,
        one: Callable[[Item], Answer],
        many: Callable[[list[Item]], list[Answer]],
        *,
        under_way: int = 1,
        most: int = 32,
        patience: float = 0.25,
    ) -> None:
        self._one = one
        self._many = many
        self._most = most
        self._patience = patience
        self._free = under_way
        self._waiting: deque[_PendingItem[Item, Answer]] = deque()
        self._lock = threading.Lock()

    def __call__(self, item: Item) -> Answer:
        """The answer for `item`. Raises what `one` raises for it."""
        with self._lock:
            turn = None if self._free > 0 else _PendingItem[Item, Answer](item)
            if turn is None:
                self._free -= 1
            else:
                self._waiting.append(turn)
        if turn is None:
            try:
                return self._one(item)
            finally:
                self._pass_on()
        self._wait(turn)
        if turn.leads:
            return self._lead(turn)
        # unanswered: those who went together failed
        return turn.answer if turn.answered else self._one(item)

    def _wait(self, turn: _PendingItem[Item, Answer]) -> None:
        try:
            if not turn.woken.wait(self._patience) and not self._step_forward(turn):
                turn.woken.wait()
        except BaseException:
            with self._lock:
                leads = turn.leads
                if not leads and turn in self._waiting:
                    self._waiting.remove(turn)
            if leads:
                self._end(turn)
            raise

    def _step_forward(self, turn: _PendingItem[Item, Answer]) -> bool:
        with self._lock:
            if turn not in self._waiting:
                return False
            self._waiting.remove(turn)
            self._free -= 1
            self._gather_behind(turn)
        return True

    def _gather_behind(self, leader: _PendingItem[Item, Answer]) -> None:
        while self._waiting and len(leader.followers) < self._most - 1:
            leader.followers.append(self._waiting.popleft())
        leader.leads = True

    def _lead(self, turn: _PendingItem[Item, Answer]) -> Answer:
        try:
            if not turn.followers:
                return self._one(turn.item)
            try:
                answers = self._many([turn.item, *(each.item for each in turn.followers)])
            except Exception:
                self._dismiss(turn)
                return self._one(turn.item)
            for each, answer in zip(turn.followers, answers[1:], strict=True):
                each.answer = answer
                each.answered = True
            return answers[0]
        finally:
            self._end(turn)

    def _dismiss(self, turn: _PendingItem[Item, Answer]) -> None:
        followers, turn.followers = turn.followers, []
        for each in followers:
            each.woken.set()

    def _end(self, turn: _PendingItem[Item, Answer]) -> None:
        self._dismiss(turn)
        self._pass_on()

    def _pass_on(self) -> None:
        with self._lock:
            if not self._waiting:
                self._free += 1
                return
            leader = self._waiting.popleft()
            self._gather_behind(leader)
        leader.woken.set()
