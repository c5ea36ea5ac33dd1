"""The quota ledger in a discrete-event simulation: how fast it decides, and what its decisions are worth."""
