"""The commands, one module for each kind. What they need to run is imported when they run."""
