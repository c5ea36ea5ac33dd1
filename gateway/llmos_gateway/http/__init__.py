"""Two HTTP servers: the public one for callers, the admin one for probes, metrics and load."""
