"""Starts the client from its sources: `python -m stoa`."""

from stoa.terminal import main

main()
