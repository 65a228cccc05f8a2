"""Training of the two shipped networks: the demo teacher and the avatar reader."""
