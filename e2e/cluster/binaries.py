"""Finds the Kubernetes programs, and builds from their Go modules those that are nowhere to be found.

The order is `KUBEBUILDER_ASSETS`, `PATH`, the cache folder, a build. What the first two offer is the user's choice and
is taken at any version. What lies in the cache was built here: Go writes module versions into every binary it links,
so the binary is its own version stamp, and a changed version below rebuilds it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from e2e.cluster.errors import ClusterError
from e2e.cluster.paths import cache_dir
from e2e.cluster.progress import Update, step
from e2e.cluster.shell import run

KUBERNETES_VERSION = "1.34.4"
_BUILD_TIMEOUT_S = 45 * 60.0

# k8s.io/kubernetes requires its staging modules at v0.0.0 and replaces them by folders of its own repository. Whoever
# uses it as a module has to repeat those replacements with versions.
_STAGING = [
    "api",
    "apiextensions-apiserver",
    "apimachinery",
    "apiserver",
    "cli-runtime",
    "client-go",
    "cloud-provider",
    "cluster-bootstrap",
    "code-generator",
    "component-base",
    "component-helpers",
    "controller-manager",
    "cri-api",
    "cri-client",
    "csi-translation-lib",
    "dynamic-resource-allocation",
    "endpointslice",
    "externaljwt",
    "kms",
    "kube-aggregator",
    "kube-controller-manager",
    "kube-proxy",
    "kube-scheduler",
    "kubectl",
    "kubelet",
    "metrics",
    "mount-utils",
    "pod-security-admission",
    "sample-apiserver",
    "sample-cli-plugin",
    "sample-controller",
]


@dataclass(frozen=True)
class Source:
    """Where a program comes from: a main package inside a Go module at a version."""

    module: str
    version: str
    package: str

    @property
    def is_kubernetes(self) -> bool:
        return self.module == "k8s.io/kubernetes"


def _kubernetes(name: str) -> Source:
    return Source("k8s.io/kubernetes", f"v{KUBERNETES_VERSION}", f"k8s.io/kubernetes/cmd/{name}")


SOURCES = {
    "etcd": Source("go.etcd.io/etcd/server/v3", "v3.6.4", "go.etcd.io/etcd/server/v3"),
    "kube-apiserver": _kubernetes("kube-apiserver"),
    "kube-controller-manager": _kubernetes("kube-controller-manager"),
    "kube-scheduler": _kubernetes("kube-scheduler"),
    "kubelet": _kubernetes("kubelet"),
    "kube-proxy": _kubernetes("kube-proxy"),
    "kubectl": _kubernetes("kubectl"),
    "coredns": Source("github.com/coredns/coredns", "v1.12.4", "github.com/coredns/coredns"),
    "kwok": Source("sigs.k8s.io/kwok", "v0.7.0", "sigs.k8s.io/kwok/cmd/kwok"),
    "helm": Source("helm.sh/helm/v3", "v3.19.0", "helm.sh/helm/v3/cmd/helm"),
    "kind": Source("sigs.k8s.io/kind", "v0.30.0", "sigs.k8s.io/kind"),
}
OWN_TOOLS = ("local-volumes", "pause")
CONTROL_PLANE = ("etcd", "kube-apiserver")
CONTROLLERS = ("kube-controller-manager", "kube-scheduler")
HOST = (*CONTROL_PLANE, *CONTROLLERS, "kubelet", "kube-proxy", "kubectl", "coredns", "kwok", "helm")


def build_go_mod(name: str) -> str:
    """The go.mod of the throw-away module in which `name` is built."""
    source = SOURCES[name]
    if not source.is_kubernetes:
        return f"module llmos.dev/e2e/{name}\n\ngo 1.24.0\n"
    replacements = "".join(f"\tk8s.io/{m} => k8s.io/{m} v0{KUBERNETES_VERSION[1:]}\n" for m in _STAGING)
    return (
        "module llmos.dev/e2e/kubernetes\n\ngo 1.24.0\n\n"
        f"require {source.module} {source.version}\n\nreplace (\n{replacements})\n"
    )


def build_commands(names: list[str], target: Path) -> list[list[str]]:
    """The go commands that build `names` (of one module) into the folder `target`, run in their module's folder."""
    source = SOURCES[names[0]]
    flags = "-s -w"
    if source.is_kubernetes:
        major, minor, _ = KUBERNETES_VERSION.split(".")
        stamp = "-X k8s.io/component-base/version."
        flags += f" {stamp}gitVersion=v{KUBERNETES_VERSION} {stamp}gitMajor={major} {stamp}gitMinor={minor}"
    packages = [SOURCES[name].package for name in names]
    build = ["go", "build", "-v", "-mod=mod", "-trimpath", "-ldflags", flags, "-o", f"{target}/", *packages]
    if source.is_kubernetes:
        return [build]
    return [["go", "get", "-tool", f"{source.package}@{source.version}"], build]


def ensure_binaries(*names: str) -> dict[str, Path]:
    """A path for each name; builds what is missing.

    Raises:
        ClusterError: Go is needed and not there, or a build failed.
    """
    found = {name: path for name in names if (path := find_binary(name))}
    missing = [name for name in names if name not in found]
    for group in _by_module(missing):
        found |= _build(group)
    return found


def find_binary(name: str) -> Path | None:
    """Where `name` is, or None when it has to be built."""
    if name in OWN_TOOLS:
        built = cache_dir() / "bin" / f"{name}-{_own_sources_hash()}"
        return built if built.exists() else None
    if (assets := os.environ.get("KUBEBUILDER_ASSETS")) and (Path(assets) / name).exists():
        return Path(assets) / name
    if on_path := shutil.which(name):
        return Path(on_path)
    cached = cache_dir() / "bin" / name
    return cached if cached.exists() and _is_current(cached, SOURCES[name]) else None


def is_build_info_of(build_info: str, source: Source) -> bool:
    """Whether the output of `go version -m` names the wanted module and version (as main module or dependency)."""
    wanted = [source.module, source.version]
    lines = (line.split() for line in build_info.splitlines())
    return any(line[0] in {"mod", "dep"} and line[1:3] == wanted for line in lines if line)


def _is_current(binary: Path, source: Source) -> bool:
    if shutil.which("go") is None:
        return True  # Nothing could be rebuilt, so an older binary is better than none.
    return is_build_info_of(run("go", "version", "-m", binary).stdout, source)


def _by_module(names: list[str]) -> list[list[str]]:
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault("own" if name in OWN_TOOLS else SOURCES[name].module, []).append(name)
    return list(groups.values())


def _build(names: list[str]) -> dict[str, Path]:
    if shutil.which("go") is None:
        raise ClusterError(
            f"{', '.join(names)}: not in KUBEBUILDER_ASSETS, PATH or {cache_dir() / 'bin'}, and Go is not installed to "
            "build them. Install Go 1.24 or newer (https://go.dev/dl), or put the programs on PATH."
        )
    cached = cache_dir() / "bin"
    cached.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cached, prefix=".build-") as scratch:
        output = Path(scratch)
        if names[0] in OWN_TOOLS:
            built = {name: f"{name}-{_own_sources_hash()}" for name in names}
            _run_go(["go", "build", "-v", "-trimpath", "-ldflags", "-s -w", "-o", scratch, "./..."], _own_sources())
        else:
            built = {name: name for name in names}
            module = cache_dir() / ("k8s-src" if SOURCES[names[0]].is_kubernetes else f"{names[0]}-src")
            module.mkdir(parents=True, exist_ok=True)
            (module / "go.mod").write_text(build_go_mod(names[0]))
            for command in build_commands(names, output):
                _run_go(command, module)
        for name in names:
            produced = output / (name if name in OWN_TOOLS else Path(SOURCES[name].package).name)
            if not produced.exists():  # A package path that ends in /v3 names its program after the part before.
                produced = output / Path(SOURCES[name].package).parent.name
            produced.rename(cached / built[name])
    return {name: cached / file for name, file in built.items()}


def _run_go(command: list[str], module: Path) -> None:
    """Run a go command, counting the packages it reports, for a cold build takes minutes."""
    with step(f"{' '.join(command[:2])} in {module.name}") as update:
        with subprocess.Popen(
            command,
            cwd=module,
            env={**os.environ, "CGO_ENABLED": "0", "GOFLAGS": ""},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as go:
            try:
                said = _follow(go, update)
            except BaseException:
                go.kill()
                raise
        if go.returncode != 0:
            raise ClusterError(f"`{' '.join(command)}` failed:\n{said}\nIs the Go module proxy reachable?")


def _follow(go: subprocess.Popen[str], update: Update) -> str:
    tail: list[str] = []
    assert go.stderr is not None
    for count, line in enumerate(go.stderr, start=1):
        update(f"{count} packages, {line.strip()[:80]}")
        tail = [*tail[-19:], line.rstrip()]
    go.wait(_BUILD_TIMEOUT_S)
    return "\n".join(tail)


def _own_sources() -> Path:
    return Path(__file__).parent / "go"


def _own_sources_hash() -> str:
    digest = hashlib.sha256()
    for path in sorted(path for path in _own_sources().rglob("*") if path.is_file()):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
