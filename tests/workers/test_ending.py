from __future__ import annotations

import signal
import socket
import subprocess
import sys


def test_a_step_ends_at_once_on_sigterm_also_as_pid_1() -> None:
    """The kernel ignores SIGTERM for a PID 1 without a handler, as for a process that inherits to ignore it."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(30)
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}/model"
        before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
        try:
            step = subprocess.Popen([sys.executable, "-m", "llmos_workers.fetch", "inspect", "--source", uri])
        finally:
            signal.signal(signal.SIGTERM, before)
        try:
            connection, _ = silent.accept()
            with connection:
                step.terminate()
                assert step.wait(10) == 128 + signal.SIGTERM
        finally:
            step.kill()
            step.wait()
