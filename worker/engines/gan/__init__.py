"""Pictures from GANs, and training them."""
