"""What a person can ask of a generator: what it is, how good its images are, and whether editing works."""
