"""What a worker watches of itself: threads that hang, disks that are full, failures in a row."""
