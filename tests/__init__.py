"""Real parts under test: real databases, a real Valkey, real processes."""
