"""Published latent diffusion models behind the endless queue; needs the extra `hosts` (diffusers)."""
