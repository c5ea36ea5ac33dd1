"""What the trainer imports before it can go on: each library is time that accelerators are held for nothing."""

from __future__ import annotations

import json
import subprocess
import sys

_UNWANTED = ("datasets", "httpx", "obstore", "pandas", "scipy", "sklearn", "torch._inductor.compile_fx")
_CODE = """
import json, os, runpy, sys
code = []
os._exit = code.append
sys.argv = ["train", "--job=/nowhere", "--model=/nowhere", "--work=/nowhere", "--base-digest=none"]
try:
    runpy.run_module("llmos_workers.train", run_name="__main__", alter_sys=True)
except SystemExit as error:
    code.append(str(error))
found = [name for name in UNWANTED if name in sys.modules]
import scipy.stats
print(json.dumps({"ended": code[-1], "trainer": "llmos_workers.train.loop" in sys.modules, "found": found}))
"""


def test_the_real_command_does_without_what_it_does_not_need() -> None:
    code = _CODE.replace("UNWANTED", repr(_UNWANTED))
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert "cannot be read" in said["ended"]
    assert said["trainer"]
    assert said["found"] == []
