"""Where the API server is and who we are, for the asynchronous client: a kubeconfig, or the service account of the pod.

A kubeconfig that is named (`--kubeconfig`, KUBECONFIG) wins; inside a pod the service account is next; then
`~/.kube/config`. The operator and the gateway share this; the `llmos` command has its own way over httpx, which knows
contexts (`llmos.client.connection`).
"""

from __future__ import annotations

import os
from pathlib import Path

import aiohttp
from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.config.config_exception import ConfigException
from kubernetes.aio.config.incluster_config import SERVICE_HOST_ENV_NAME, load_incluster_config
from kubernetes.aio.config.kube_config import KUBE_CONFIG_DEFAULT_LOCATION, load_kube_config

__all__ = ["Configuration", "NoClusterError", "load_configuration"]


class NoClusterError(Exception):
    """There is no usable description of a cluster."""


async def load_configuration(kubeconfig: str = "", *, connections: int = 32) -> Configuration:
    """Return the address of the API server and the credentials for it.

    Args:
        kubeconfig: path of a kubeconfig; empty means KUBECONFIG, then the service account, then `~/.kube/config`.
        connections: how many requests may be in flight at a time; at least the number of workers.

    Raises:
        NoClusterError: nothing usable was found.
    """
    # Proxies from the environment are for fetching models, and looking them up costs more than the rest of a request.
    session = {"trust_env": False, "cookie_jar": aiohttp.DummyCookieJar()}
    configuration = Configuration(connection_pool_maxsize=connections, client_session_kwargs=session)
    path = kubeconfig or os.environ.get("KUBECONFIG", "")
    try:
        if path or SERVICE_HOST_ENV_NAME not in os.environ:
            _check_kubeconfig(path or KUBE_CONFIG_DEFAULT_LOCATION)
            await _load_kubeconfig(configuration, path or KUBE_CONFIG_DEFAULT_LOCATION)
        else:
            load_incluster_config(client_configuration=configuration)
    except (ConfigException, OSError) as error:
        raise NoClusterError(
            f"No cluster to talk to: {error}. Run inside a pod with a service account, or set KUBECONFIG."
        ) from error
    return configuration


def _check_kubeconfig(path: str) -> None:
    if not any(Path(part).expanduser().is_file() for part in path.split(os.pathsep)):
        raise FileNotFoundError(f"there is no kubeconfig at {path}")


async def _load_kubeconfig(configuration: Configuration, path: str) -> None:
    loader = await load_kube_config(config_file=path, client_configuration=configuration, persist_config=False)

    async def refresh(current: Configuration) -> None:
        # Plugins keep their token until it expires and files are cheap to read, so this may run before every request.
        await loader.load_and_set(current)

    configuration.refresh_api_key_hook = refresh
