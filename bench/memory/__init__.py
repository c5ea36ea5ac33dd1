"""Scores the memory planner on start-up figures that real vLLM servers logged.

Claim: from the configuration alone (config.json, GPU, arguments; weights predicted too) the planner says how much KV
cache an engine will have, within 3 % on average, and never says "fits" where an engine refused to start.
"""
