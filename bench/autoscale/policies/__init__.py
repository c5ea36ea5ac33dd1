"""Policies: ours, those of peers with their formulas and defaults, and references."""
