"""Entry points of insights: their JSON routes and pages."""
