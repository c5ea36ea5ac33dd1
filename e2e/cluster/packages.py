"""Debian packages of the host provider: what a node needs below Kubernetes, and what builds images."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from e2e.cluster.errors import ClusterError
from e2e.cluster.progress import say, step
from e2e.cluster.shell import run

# A package, and a file that is there once it is installed (in a folder or on PATH).
NODE_PACKAGES = {
    "containerd": "containerd",
    "runc": "runc",
    "containernetworking-plugins": "/usr/lib/cni/bridge",
    "nftables": "nft",
    "conntrack": "conntrack",
    "iproute2": "ip",
    "buildah": "buildah",
}
IMAGE_PACKAGES = {"buildah": "buildah", "debootstrap": "debootstrap"}
_SYSTEM_FOLDERS = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def missing_packages(wanted: dict[str, str]) -> list[str]:
    """The packages of `wanted` whose file is not there."""
    search = f"{os.environ.get('PATH', '')}:{_SYSTEM_FOLDERS}"
    return [
        package
        for package, file in wanted.items()
        if not (Path(file).exists() if file.startswith("/") else shutil.which(file, path=search))
    ]


def ensure_packages(wanted: dict[str, str]) -> None:
    """Install what is missing with apt.

    Raises:
        ClusterError: something is missing and this is not a Debian machine, or not root.
    """
    missing = missing_packages(wanted)
    if not missing:
        return
    listed = " ".join(missing)
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        raise ClusterError(f"Missing: {listed}. Install them (on Debian: `sudo apt-get install {listed}`).")
    say(f"Installing Debian packages: {listed}")
    apt_env = {"DEBIAN_FRONTEND": "noninteractive"}
    # A package whose service starts by itself would run a second containerd beside ours.
    policy = Path("/usr/sbin/policy-rc.d")
    keep_services_down = not policy.exists()
    if keep_services_down:
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
    try:
        with step("apt-get update"):
            run("apt-get", "update", "-q", env=apt_env, timeout_s=300)
        with step("apt-get install"):
            run("apt-get", "install", "-qy", "--no-install-recommends", *missing, env=apt_env, timeout_s=900)
    finally:
        if keep_services_down:
            policy.unlink(missing_ok=True)
