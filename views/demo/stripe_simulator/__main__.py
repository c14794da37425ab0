"""The Stripe simulator as a process of `flask serve`: `python -m views.demo.stripe_simulator FD`, on an inherited socket. Its key
and webhook secret are in the environment; its state is a file in the data directory."""

import logging
import socket
import sys

from werkzeug.serving import make_server

from models.core.settings import Settings, get_settings
from views.demo.stripe_simulator import Simulator, create_simulator
from views.demo.stripe_simulator.simulated_clock import tick
from views.demo.stripe_simulator.simulated_events import DeliveryThread

FILE = "stripe_demo.json"
"""File name in the data directory."""


def main(fd: int) -> None:
    """Serve until killed."""
    logging.basicConfig(level=logging.INFO, format="%(name)s %(message)s")
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    settings = get_settings()
    with socket.socket(fileno=fd) as listener:
        host, port = listener.getsockname()[:2]
        simulator = Simulator(
            settings.stripe_secret_key.get_secret_value() if settings.stripe_secret_key else "",
            settings.stripe_webhook_secret.get_secret_value() if settings.stripe_webhook_secret else "",
            webhook_url=webhook_url(settings),
            file=settings.data_dir / FILE,
        )
        simulator.url = f"http://{host}:{port}"
        server = make_server(host, port, create_simulator(simulator), threaded=True, fd=fd)
        DeliveryThread(simulator, tick).start()
        server.serve_forever()


def webhook_url(settings: Settings) -> str:
    """The URL of this server's webhook."""
    host = {"localhost": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(  # noqa: S104
        settings.stoa_host, settings.stoa_host
    )
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.port}/api/stripe/webhook"


if __name__ == "__main__":
    main(int(sys.argv[1]))
