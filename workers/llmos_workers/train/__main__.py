"""Entry point of `python -m llmos_workers.train`."""

import os
import sys

from llmos_workers.ending import end_on_sigterm
from llmos_workers.pulse import Pulse

if __name__ == "__main__":
    end_on_sigterm()
    pulse = Pulse(sys.stdout, "loading")
    pulse.start()
    # Everything is on the disk already, and bars would drown the progress lines. Read at the first import.
    for name, value in {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1", "TOKENIZERS_PARALLELISM": "false"}.items():
        os.environ.setdefault(name, value)
    from llmos_workers.train.main import main

    code = main(pulse=pulse)
    pulse.close()  # a thread that writes while the interpreter goes away may take it down
    sys.exit(code)
