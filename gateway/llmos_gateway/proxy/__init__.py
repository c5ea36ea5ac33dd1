"""The road of one request, from its key to its record."""
