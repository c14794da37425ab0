"""Deployments: their API, pages, adapters, and the hosts of sites."""
