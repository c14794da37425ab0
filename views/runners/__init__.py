"""Entry points of runners: their JSON routes and pages."""
