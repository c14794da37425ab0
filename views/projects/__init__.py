"""Entry points of projects: their JSON routes and commands."""
