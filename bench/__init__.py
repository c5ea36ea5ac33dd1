"""Measured claims: one package for each, each prints its table and can write JSON."""
