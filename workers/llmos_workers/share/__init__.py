"""Gives the files of an adapter to the replicas that hold it."""
