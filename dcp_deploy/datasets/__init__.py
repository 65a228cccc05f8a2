"""Images to train and measure on: the procedural ``avatars``, which need no download, and ``images`` from files."""
