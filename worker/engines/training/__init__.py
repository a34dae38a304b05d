"""What the trainers of every family share."""
