"""Training of the shipped networks, the demo teacher and the avatar reader, and of a teacher of photographs."""
