"""Parts of the denoising benchmark."""
