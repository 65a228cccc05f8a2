"""Scripts that a bundle carries with it. They run without dcp-deploy."""
