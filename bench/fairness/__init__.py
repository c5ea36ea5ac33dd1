"""Tenants at one busy pool in a discrete-event simulation: what each gets, and how long it waits for it."""
