"""What the API does, whoever asks in which dialect: submit, follow, wait, estimate."""
