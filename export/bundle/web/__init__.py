"""The static folder in which a visitor of a web page generates images: its page, its runtime, and what writes it."""
