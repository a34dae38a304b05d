"""What Qanvas costs, measured on this machine beside something known."""
