"""Doors of deployments: pages, JSON API, and the hosts of sites."""
