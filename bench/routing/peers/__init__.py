"""Routing policies of other projects, as their sources have them; the commit stands in each file."""
