"""What the gateway costs: ours, a bare pass-through and other routers before the same backend, in one run."""
