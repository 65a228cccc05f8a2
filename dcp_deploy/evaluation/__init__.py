"""Questions about a generator: what a file holds, how good its images are, and whether editing works."""
