"""Talks to the cluster's own containerd through `ctr`: images in, containers out."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from e2e.cluster.errors import ClusterError
from e2e.cluster.shell import run

_IMAGE_ID_LABEL = "llmos.dev/image-id"
_LOAD_TIMEOUT_S = 20 * 60.0
_SNAPSHOT_GONE = "parent snapshot"


@dataclass(frozen=True)
class Containerd:
    """The containerd behind one socket, in the namespace that Kubernetes uses."""

    socket: Path

    def is_ready(self) -> bool:
        return self._ctr("version", check=False).returncode == 0

    def loaded_image_ids(self) -> dict[str, str]:
        """The id that each image had in the store it came from, by name. Only images that `load` brought."""
        ids = {}
        for line in self._ctr("images", "list").stdout.splitlines()[1:]:
            name, labels = line.split()[0], line.split()[-1]
            for label in labels.split(","):
                key, _, value = label.partition("=")
                if key == _IMAGE_ID_LABEL:
                    ids[name] = value
        return ids

    def load(self, export: Sequence[str], name: str, image_id: str) -> None:
        """Import what the command `export` writes to its stdout as a docker archive. Nothing is stored in between: a
        vLLM image would need another 6.5 GB."""
        previous = self.loaded_image_ids().get(name)
        for is_last in (False, True):
            complaint = self._import(export)
            if not complaint:
                break
            # containerd may collect the layers of an earlier, broken-off import while a new one builds on them.
            if is_last or _SNAPSHOT_GONE not in complaint:
                raise ClusterError(f"{name} could not be loaded:\n{complaint}")
        self._ctr("images", "label", name, f"{_IMAGE_ID_LABEL}={image_id}")
        if previous and previous != image_id:
            # Kubernetes' view of containerd also names an image by its id; that name would keep the old layers.
            self._ctr("images", "remove", f"sha256:{previous}", check=False)

    def _import(self, export: Sequence[str]) -> str:
        """Return what was said if it failed, else nothing."""
        exporter = subprocess.Popen(export, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            imported = subprocess.run(
                [*self._command("images", "import", "-")],
                stdin=exporter.stdout,
                capture_output=True,
                timeout=_LOAD_TIMEOUT_S,
                check=False,
            )
            _, said = exporter.communicate(timeout=60)
        finally:
            exporter.kill()
        if exporter.returncode == 0 and imported.returncode == 0:
            return ""
        return f"{said.decode()}\n{imported.stderr.decode()}"

    def remove_containers(self) -> None:
        """End all containers of the namespace at once and forget them. Images stay."""
        tasks = self._ctr("tasks", "list", "-q").stdout.split()
        if tasks:
            self._ctr("tasks", "delete", "--force", *tasks, check=False)
        containers = self._ctr("containers", "list", "-q").stdout.split()
        if containers:
            self._ctr("containers", "delete", *containers, check=False)

    def _command(self, *arguments: str) -> list[str]:
        return ["ctr", "--address", str(self.socket), "--namespace", "k8s.io", *arguments]

    def _ctr(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return run(*self._command(*arguments), check=check, timeout_s=120)
