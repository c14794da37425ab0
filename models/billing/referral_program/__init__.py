"""Referrals, affiliates and their rewards."""
