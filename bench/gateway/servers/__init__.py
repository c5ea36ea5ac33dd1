"""Programs that the benchmark starts by their path, each on the core that it is given."""
