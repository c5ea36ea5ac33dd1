"""`python -m llmos_workers.serve`: PID 1 of a serving pod."""

from __future__ import annotations

import sys

from llmos_workers.ending import end_on_sigterm

if __name__ == "__main__":
    end_on_sigterm()
    from llmos_workers.serve.main import main

    sys.exit(main(sys.argv[1:]))
