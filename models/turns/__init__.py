"""Turns: a question to a model and all that happens until it is answered, run by one worker, watched by many, paid exactly."""

from models.turns.turn import ACTIVE, ENDED, TURN_STATES, Turn, TurnEvent

__all__ = ["ACTIVE", "ENDED", "TURN_STATES", "Turn", "TurnEvent"]
