"""Training a small text-to-image pipeline."""
