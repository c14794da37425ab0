"""A Stripe simulator for tests and for `STOA_STRIPE=demo`: the parts of the API that Stoa uses, hosted pages as plain forms, and
webhooks. It moves play money and makes no external requests.

`python -m views.demo.stripe_simulator` runs it as a process. `create_simulator` creates the application for a test.
"""

from views.demo.stripe_simulator.simulated_app import create_simulator
from views.demo.stripe_simulator.simulated_state import Simulator

__all__ = ["Simulator", "create_simulator"]
