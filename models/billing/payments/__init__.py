"""Money in: purchases, cards, Stripe's events, disputes and reconciliation."""
