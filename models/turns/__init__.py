"""Turns: a question to a model and all that happens until it is answered, run by one worker, watched by many, paid exactly."""

from models.turns import turn_stops as turn_stops  # its receivers
from models.turns.engine import LeaseLost, TurnEngine, TurnHandle, TurnWork, is_over, register_kind
from models.turns.event_log import LAST, LoggedEvent
from models.turns.turn import ACTIVE, ENDED, TURN_STATES, Turn, TurnEvent
from models.turns.turn_verbs import ON_BUSY, OnBusy, TurnInProgress, TurnNotActive, own_turn

__all__ = [
    "ACTIVE",
    "ENDED",
    "LAST",
    "ON_BUSY",
    "TURN_STATES",
    "LeaseLost",
    "LoggedEvent",
    "OnBusy",
    "Turn",
    "TurnEngine",
    "TurnEvent",
    "TurnHandle",
    "TurnInProgress",
    "TurnNotActive",
    "TurnWork",
    "is_over",
    "own_turn",
    "register_kind",
]
