"""Entry point of `python -m llmos_workers.offsite`."""

import sys

from llmos_workers.ending import end_on_sigterm

if __name__ == "__main__":
    end_on_sigterm()
    from llmos_workers.offsite.main import main

    sys.exit(main())
