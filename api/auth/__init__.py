"""Who asks, by which key, and how much the key and its tenant may use."""
