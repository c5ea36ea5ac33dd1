"""The small disk of a story: found by its claim alone, on the one node that has it."""

from __future__ import annotations

import hashlib
from pathlib import Path

from e2e.support.disks import Node, SmallDisk


def test_the_volume_is_only_for_claims_that_name_it_and_on_the_node_that_has_it() -> None:
    disk = SmallDisk("small", Node("node-1", "/disks"))
    spec = disk.build_volume("1Gi")["spec"]
    assert spec["storageClassName"] == "small"
    assert spec["local"] == {"path": "/disks/small"}
    (term,) = spec["nodeAffinity"]["required"]["nodeSelectorTerms"]
    assert term["matchExpressions"] == [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["node-1"]}]
    assert spec["persistentVolumeReclaimPolicy"] == "Retain", "nobody can remove what is mounted there"


def test_files_are_summed_by_their_path_below_the_folder(tmp_path: Path) -> None:
    disk = SmallDisk("small", Node("here", str(tmp_path)))
    folder = tmp_path / "small" / "checkpoints" / "step-00000004"
    folder.mkdir(parents=True)
    (folder / "weights.pt").write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    assert disk.sum_files("checkpoints") == {"step-00000004/weights.pt": digest}
    assert disk.sum_files("checkpoints/step-00000004") == {"weights.pt": digest}


def test_what_is_not_mounted_is_unmounted_without_an_error(tmp_path: Path) -> None:
    disk = SmallDisk("small", Node("here", str(tmp_path)))
    (tmp_path / "small").mkdir()
    assert not disk.is_mounted()
    disk.unmount()
    assert not (tmp_path / "small").exists()
