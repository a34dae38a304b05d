"""What goes through Redis: tickets, events, and subscriptions to them."""
