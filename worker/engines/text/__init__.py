"""Text from causal language models, and training small ones."""
