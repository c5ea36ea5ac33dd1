"""Entry point of `python -m llmos_workers.fetch`."""

import sys

from llmos_workers.fetch.main import main

if __name__ == "__main__":
    sys.exit(main())
