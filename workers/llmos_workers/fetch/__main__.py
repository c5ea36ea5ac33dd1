"""Entry point of `python -m llmos_workers.fetch`."""

import os
import sys

from llmos_workers.ending import end_on_sigterm

if __name__ == "__main__":
    end_on_sigterm()
    # Bars would drown the progress lines in the log; tqdm reads this when it is first imported.
    os.environ.setdefault("TQDM_DISABLE", "1")
    from llmos_workers.fetch.main import main

    sys.exit(main())
