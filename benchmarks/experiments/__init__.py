"""Measurements behind the figures of docs/.

Each is a command: ``python -m dcp_deploy.benchmarks.experiments.<name>``.
"""
