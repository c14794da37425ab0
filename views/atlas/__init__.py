"""Entry points of the map of projects: its JSON routes and its pages."""
