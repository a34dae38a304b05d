"""A model for drills and load tests."""
