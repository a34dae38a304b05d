"""Uploaded files, what kinds there are, and how long stored files are kept."""
