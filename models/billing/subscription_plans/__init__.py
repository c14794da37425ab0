"""Plans that operators offer, and the subscriptions of people to them."""
