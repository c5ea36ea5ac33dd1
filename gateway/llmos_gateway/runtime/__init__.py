"""The process: how it starts, what runs in it, how it ends."""
