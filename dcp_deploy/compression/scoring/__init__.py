"""Channel scores: how much each channel contributes to the diversity of the images."""
