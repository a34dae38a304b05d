"""Which waiting job is next: claims, priorities, fair queueing, limits and places in the queue."""
