"""The machine under a measurement: what it is, whether it kept still, and what it could do at most."""
