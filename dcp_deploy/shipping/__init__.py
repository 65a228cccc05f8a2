"""What a finished run puts into a bundle."""
