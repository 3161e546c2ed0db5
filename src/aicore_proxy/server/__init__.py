"""The edge: HTTP in and out, and the place where everything is put together."""
