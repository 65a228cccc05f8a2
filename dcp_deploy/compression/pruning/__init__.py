"""From channel scores to a smaller network: width plans, the channels kept, and refined weights."""
