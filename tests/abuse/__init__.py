"""What people with bad intentions send, to real servers and to a real worker."""
