"""Training the embedded model: pictures, autoencoder, transformer, and the check of the result."""
