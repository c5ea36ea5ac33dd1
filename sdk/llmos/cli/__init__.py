"""The `llmos` command, also installed as `kubectl-llmos` so that `kubectl llmos` works.

app.py          names, options, help; imports the rest only when a command runs
session.py      what comes from outside, as one value
status.py       report.py (judges), screen.py (draws)
planning.py     plan_text.py (writes)
chat.py, waiting.py
exits.py        exit codes and error messages
"""


def main() -> None:
    """Run the command line."""
    from llmos.cli.app import app  # noqa: PLC0415  (`import llmos.cli` must not cost anything)

    app()
