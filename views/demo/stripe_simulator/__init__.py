"""A simulator of Stripe for tests and for `STOA_STRIPE=demo`: the parts of its API that Stoa uses, its hosted pages as plain
forms, its webhooks. Play money; nothing leaves this machine.

`python -m views.demo.stripe_simulator` runs it as a process. `create_simulator` makes the application for a test.
"""

from views.demo.stripe_simulator.simulated_app import create_simulator
from views.demo.stripe_simulator.simulated_state import Simulator

__all__ = ["Simulator", "create_simulator"]
