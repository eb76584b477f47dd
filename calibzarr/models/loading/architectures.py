"""What is known of the architectures without MLX."""

GUIDANCE = 3.5  # that FLUX.1 dev is told of where nothing else is chosen
