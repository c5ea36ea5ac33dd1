"""Autoscaling policies on request traces, by simulation: who holds latencies with how many GPU-hours."""
