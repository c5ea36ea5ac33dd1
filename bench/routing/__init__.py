"""Replays a trace through simulated replicas under several routing policies, and times the routing decision."""
