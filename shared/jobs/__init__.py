"""Jobs: their states, their rows, and the only code that writes a status."""
