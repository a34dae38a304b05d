"""Where the weights of a loaded model lie, and in which layout."""
