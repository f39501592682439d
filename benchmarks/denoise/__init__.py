"""How well counts are denoised."""
