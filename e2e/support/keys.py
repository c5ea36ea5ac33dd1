"""`llmos keys` as an administrator runs it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

from e2e.support.gateway import SYSTEM_NAMESPACE


class Keys:
    """The command, for one cluster."""

    def __init__(self, kubeconfig: Path) -> None:
        """Speak to this cluster."""
        self._options = (f"--system-namespace={SYSTEM_NAMESPACE}", f"--kubeconfig={kubeconfig}")

    async def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command, whatever comes of it."""
        command = [str(Path(sys.executable).with_name("llmos")), "keys", *words, *self._options]
        return await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60, check=False)

    async def __call__(self, *words: str) -> str:
        """Run a command and return what it prints."""
        done = await self.run(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout
