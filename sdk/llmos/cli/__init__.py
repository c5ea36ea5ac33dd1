"""The `llmos` command, also installed as `kubectl-llmos` so that `kubectl llmos` works.

app.py          names, options, help; imports the rest only when a command runs; so do objects.py, jobs.py, keys.py
session.py      what comes from outside, as one value
status.py       report.py (judges), screen.py (draws)
planning.py     plan_text.py (writes)
chat.py, waiting.py
tuning.py       what `tune` makes (gates.py), tune_run.py (does it), job_progress.py, job_screen.py, why_job.py (draw)
getting.py, reading_logs.py
kinds.py        kinds and names as people write them
exits.py        exit codes and error messages
"""


def main() -> None:
    """Run the command line."""
    from llmos.cli.app import app  # noqa: PLC0415  (`import llmos.cli` must not cost anything)

    app()
