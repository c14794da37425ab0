"""Learned output sizes: the output tokens that the hold of a stream starts with, by API key and model.

Fed by this process's settlements, read without I/O. Each worker learns on its own, and starts again after a restart.
"""

import threading
from array import array
from bisect import bisect_left, insort
from collections import OrderedDict
from statistics import median_low

DEFAULT_OUTPUT = 8_192
"""Output tokens of the first hold until MIN_CALLS calls are known."""
FLOOR_OUTPUT, CAP_OUTPUT = 512, 32_768
"""Least and most output tokens of a learned hold."""
HEADROOM = 3, 2
"""A learned hold covers 3/2 of p95, so that most streams end before their output must be counted."""
WINDOW = 100
"""Calls of a key and model that are remembered."""
MIN_CALLS = 20
MAX_WINDOWS = 2_000
"""Keys and models that are remembered, about 2 KB each. Those whose calls settled longest ago are dropped first."""
MAX_REASONING_MODELS = 1_000


class CallWindow:
    """Output tokens and latencies of the last WINDOW calls of one key and model."""

    __slots__ = ("_latencies", "_outputs", "_sorted", "size")

    def __init__(self) -> None:
        self._outputs = array("q")
        self._sorted = array("q")
        self._latencies = array("q")
        self.size: int | None = None
        """p95 with headroom; None before MIN_CALLS calls."""

    def add(self, output_tokens: int, latency_ms: int) -> None:
        """Add a call; drops the oldest beyond WINDOW."""
        if len(self._outputs) == WINDOW:
            del self._sorted[bisect_left(self._sorted, self._outputs.pop(0))]
            self._latencies.pop(0)
        self._outputs.append(output_tokens)
        self._latencies.append(latency_ms)
        insort(self._sorted, output_tokens)
        count = len(self._sorted)
        if count >= MIN_CALLS:
            # nearest rank; `-(-a // b)` rounds up
            p95 = self._sorted[-(-count * 95 // 100) - 1]
            self.size = -(-p95 * HEADROOM[0] // HEADROOM[1])

    def median_seconds(self) -> float:
        """p50 of the latencies."""
        return median_low(self._latencies) / 1000


class OutputEstimator:
    """The windows of a process. Thread-safe."""

    def __init__(self) -> None:
        self._windows: OrderedDict[tuple[str, str], CallWindow] = OrderedDict()
        self._reasoning_models: OrderedDict[str, None] = OrderedDict()
        self._lock = threading.Lock()

    def record(
        self, key_id: str, model: str, output_tokens: int, latency_ms: int, *, unsent_reasoning: bool = False
    ) -> None:
        """Add a settled call: its output tokens per answer. `unsent_reasoning`: the provider billed reasoning that it did
        not send, so a stream's hold cannot grow with it."""
        output_tokens = min(max(output_tokens, 0), 2 * CAP_OUTPUT)
        with self._lock:
            window = self._windows.get((key_id, model))
            if window is None:
                window = self._windows[key_id, model] = CallWindow()
                if len(self._windows) > MAX_WINDOWS:
                    self._windows.popitem(last=False)
            else:
                self._windows.move_to_end((key_id, model))
            window.add(output_tokens, latency_ms)
            if unsent_reasoning:
                self._reasoning_models[model] = None
                self._reasoning_models.move_to_end(model)
                if len(self._reasoning_models) > MAX_REASONING_MODELS:
                    self._reasoning_models.popitem(last=False)

    def size(self, key_id: str, model: str) -> int:
        """Output tokens per answer that a stream's first hold covers: p95 of the key's latest calls of the model with
        HEADROOM, from FLOOR_OUTPUT to CAP_OUTPUT. DEFAULT_OUTPUT before MIN_CALLS calls, and at least DEFAULT_OUTPUT for
        models that do not send all reasoning they bill."""
        window = self._windows.get((key_id, model))
        if window is None or window.size is None:
            return DEFAULT_OUTPUT
        floor = DEFAULT_OUTPUT if model in self._reasoning_models else FLOOR_OUTPUT
        return min(max(window.size, floor), CAP_OUTPUT)

    def typical_seconds(self, key_id: str, model: str) -> float | None:
        """p50 of the duration of the key's latest calls of the model; None before MIN_CALLS calls."""
        with self._lock:
            window = self._windows.get((key_id, model))
            return None if window is None or window.size is None else window.median_seconds()
