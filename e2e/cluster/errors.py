"""The one error that this tool raises on purpose: its text names the cause and the remedy and needs no traceback."""

from __future__ import annotations


class ClusterError(RuntimeError):
    """Something the caller can act upon. The message says what went wrong and what to do."""
