"""The path of a request, and what it asks on the way."""
