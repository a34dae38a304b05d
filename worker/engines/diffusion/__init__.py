"""Pictures by diffusion: any pipeline of diffusers, and training small ones."""
