"""Loaded by Python in the servers of the proof of runners: the leases of works last a few seconds instead of half a minute."""

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from datetime import timedelta
from types import ModuleType

NAME = "models.runners.work_queue"


class ShortLeases(importlib.abc.MetaPathFinder):
    """Changes the durations of the queue of works when it is imported."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != NAME:
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        assert spec is not None
        assert spec.loader is not None
        load = spec.loader.exec_module

        def execute(module: ModuleType) -> None:
            load(module)
            module.__dict__.update(
                LEASE=timedelta(seconds=6), ACK=timedelta(seconds=4), OPENER=timedelta(seconds=12)
            )

        spec.loader.exec_module = execute  # type: ignore[method-assign]
        return spec


sys.meta_path.insert(0, ShortLeases())
