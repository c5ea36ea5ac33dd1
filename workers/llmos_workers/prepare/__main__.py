"""Entry point of `python -m llmos_workers.prepare`."""

import os
import sys

from llmos_workers.ending import end_on_sigterm

if __name__ == "__main__":
    end_on_sigterm()
    # Read when the libraries are first imported: no bars, no requests to a hub, no news.
    for name, value in {"TQDM_DISABLE": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}.items():
        os.environ.setdefault(name, value)
    from llmos_workers.prepare.main import main

    sys.exit(main())
