"""From prompts to trajectories in a store."""
