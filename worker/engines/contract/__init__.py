"""What an engine is given and what it gives back, and how a trainer wants its dataset read."""
