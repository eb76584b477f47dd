"""What is known of the architectures without MLX."""

GUIDANCE = 3.5  # that FLUX.1 dev is told of where nothing else is chosen
SD3_SHIFT = 3.0  # of the noise levels
FLUX_SHIFT = 1.0


def is_flux(architecture: str) -> bool:
    """Whether it is one of FLUX.1's, and not of Stable Diffusion 3's."""
    return architecture.startswith("flux")
