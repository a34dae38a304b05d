"""HTTP itself: bodies, checks of a request, problems, file responses, and how many requests are active."""
