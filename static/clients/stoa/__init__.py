"""The client of projects: working copies on this computer, their snapshots, and the server that they share."""

SERVED = {"url": "", "version": "", "digest": ""}  # filled in by the server that hands out this file
