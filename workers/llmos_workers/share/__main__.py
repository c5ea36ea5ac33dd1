"""`python -m llmos_workers.share`: serve the files of one adapter until SIGTERM."""

from __future__ import annotations

import sys

from llmos_workers.ending import end_on_sigterm

if __name__ == "__main__":
    end_on_sigterm()
    from llmos_workers.share.main import main

    sys.exit(main(sys.argv[1:]))
