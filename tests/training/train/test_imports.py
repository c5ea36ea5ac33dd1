"""What the trainer imports before it can go on: each library is time that accelerators are held for nothing."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from transformers.utils import import_utils

from llmos_workers.train.scanning import import_models

_UNWANTED = ("datasets", "httpx", "obstore", "pandas", "scipy", "sklearn", "torch._inductor.compile_fx")
_CODE = """
import gc, json, os, runpy, sys
code, read = [], []
def watch(event, arguments):
    if event == "open" and str(arguments[0]).endswith("/models/zoedepth/modeling_zoedepth.py"):
        read.append(arguments[0])
sys.addaudithook(watch)
os._exit = code.append
sys.argv = ["train", "--job=/nowhere", "--model=/nowhere", "--work=/nowhere", "--base-digest=none"]
try:
    runpy.run_module("llmos_workers.train", run_name="__main__", alter_sys=True)
except SystemExit as error:
    code.append(str(error))
found = [name for name in UNWANTED if name in sys.modules]
facts = {
    "ended": code[-1],
    "trainer": "llmos_workers.train.loop" in sys.modules,
    "found": found,
    "scans": len(read),
    "collects": gc.isenabled(),
    "frozen": gc.get_freeze_count(),
}
import transformers, scipy.stats
from transformers.utils.import_utils import define_import_structure
file = transformers.models.__file__
fresh = define_import_structure.__wrapped__(file)
known = transformers.models._import_structure
facts["knows_all"] = {name: sorted(known[name]) for name in known} == {
    name: sorted(sum((list(each.get(name, ())) for each in fresh.values()), []))
    for name in {name for each in fresh.values() for name in each}
}
print(json.dumps(facts))
"""


def test_the_real_command_does_without_what_it_does_not_need() -> None:
    code = _CODE.replace("UNWANTED", repr(_UNWANTED))
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert "cannot be read" in said["ended"]
    assert said["trainer"]
    assert said["found"] == []
    assert said["scans"] == 1
    assert said["knows_all"]
    assert said["collects"]
    assert said["frozen"] > 100_000


def test_a_transformers_that_looks_otherwise_is_imported_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(import_utils, "create_import_structure_from_path")
    import_models()
    assert not hasattr(import_utils, "create_import_structure_from_path")
