"""Entry point of `python -m llmos_workers.fetch`."""

import os
import sys

if __name__ == "__main__":
    # Bars would drown the progress lines in the log; tqdm reads this when it is first imported.
    os.environ.setdefault("TQDM_DISABLE", "1")
    from llmos_workers.fetch.main import main

    sys.exit(main())
