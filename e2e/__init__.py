"""Stories told on a real cluster, and the tool that starts that cluster (`e2e.cluster`)."""
