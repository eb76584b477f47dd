"""Other people's ways to choose bits of layers, written anew from their descriptions."""
