"""The machine of a measurement: its description, its load and clocks, and its highest rates."""
