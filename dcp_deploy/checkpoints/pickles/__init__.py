"""Reading pickles without running them: an interpreter that cannot import, and the values it may make."""
