"""Entry point of `python -m llmos_workers.train`."""

import os
import sys

from llmos_workers.ending import end_on_sigterm
from llmos_workers.pulse import Pulse

if __name__ == "__main__":
    end_on_sigterm()
    pulse = Pulse(sys.stdout, "loading")
    if not any(each.startswith("--local-rank=") and each != "--local-rank=0" for each in sys.argv):
        pulse.start()  # Of the processes of one pod the first one speaks.
    # Read at the first import. Everything is on the disk already, bars would drown the progress lines, and nothing is
    # compiled: without its compiler torch is imported in less time.
    environment = {
        "HF_HUB_OFFLINE": "1",
        "TQDM_DISABLE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TORCHDYNAMO_DISABLE": "1",
    }
    for name, value in environment.items():
        os.environ.setdefault(name, value)
    from llmos_workers.train.arguments import build_parser
    from llmos_workers.train.collecting import keep_everything
    from llmos_workers.train.hiding import hide

    parsed = build_parser().parse_args()
    if parsed.processes > 1 and "LLMOS_LAUNCHED" not in os.environ:
        from llmos_workers.train.launch import launch

        # The ranks give the signs of life themselves: this process does nothing but wait for them.
        pulse.close()
        code = launch(sys.argv[1:], parsed.processes)
    else:
        with hide("scipy"), keep_everything():
            from llmos_workers.train.scanning import import_models

            import_models()
            from llmos_workers.train.main import main

        code = main(pulse=pulse)
    pulse.close()
    sys.stdout.flush()
    sys.stderr.flush()
    # An accelerator that waits for a rank that is gone would keep the interpreter from ending.
    os._exit(code)
