"""Entry point of `python -m llmos_workers.prepare`."""

import os
import sys

from llmos_workers.ending import end_on_sigterm
from llmos_workers.pulse import Pulse

if __name__ == "__main__":
    end_on_sigterm()
    # All of it is work of the processor, so using it is the sign of life.
    pulse = Pulse(sys.stdout, "preparing")
    pulse.start()
    # Read when the libraries are first imported: no bars, no requests to a hub, no news.
    for name, value in {"TQDM_DISABLE": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}.items():
        os.environ.setdefault(name, value)
    from llmos_workers.prepare.main import main

    code = main()
    pulse.close()  # a thread that writes while the interpreter goes away may take it down
    sys.exit(code)
