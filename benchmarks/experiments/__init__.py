"""Measurements behind the figures in docs/, each a command: ``python -m dcp_deploy.benchmarks.experiments.NAME``."""
