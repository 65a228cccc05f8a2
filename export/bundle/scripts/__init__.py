"""Scripts that are copied into every bundle. They run without dcp-deploy."""
