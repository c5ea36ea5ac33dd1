"""Finds the way to the API server, as kubectl does: kubeconfig (`$KUBECONFIG`, ~/.kube/config), else the pod's account.

The `kubernetes` package reads the configuration, because that knows every way to log in (client certificates, tokens,
exec plugins, OIDC) and refreshes what expires. Requests then go through httpx: one library that is synchronous and
asynchronous, streams both ways, and takes its transport as a value.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import urllib.request
from collections.abc import AsyncGenerator, Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from llmos.client.errors import ConfigurationError

DEFAULT_NAMESPACE = "default"
_ACCOUNT_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_CLUSTER_REMEDY = (
    "Check that the cluster runs and that this is the right one: kubectl cluster-info; "
    "choose another with --context or --kubeconfig."
)
_URL_REMEDY = "Check the address and that the server runs; it must speak the OpenAI-compatible API."


@dataclass(frozen=True)
class Connection:
    """Where the server is and how to log in."""

    server: str
    namespace: str = DEFAULT_NAMESPACE
    tls: ssl.SSLContext | bool = True
    auth: httpx.Auth | None = None
    proxy: str | None = None
    tls_server_name: str | None = None
    remedy: str = _CLUSTER_REMEDY

    def client_options(self, *, has_transport: bool) -> dict[str, Any]:
        """Arguments of httpx's clients. A transport that was given replaces TLS and proxy."""
        # The configuration alone decides; httpx must not send the request elsewhere on its own.
        options: dict[str, Any] = {"base_url": self.server, "auth": self.auth, "trust_env": False}
        return options if has_transport else {**options, "verify": self.tls, "proxy": self.proxy}


class _Bearer(httpx.Auth):
    """Sends an API key."""

    def __init__(self, api_key: str) -> None:
        self._header = f"Bearer {api_key}"

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        request.headers["Authorization"] = self._header
        yield request


def build_url_connection(url: str, api_key: str = "") -> Connection:
    """A connection to one OpenAI-compatible server, without any cluster. `/v1` at the end may be left out."""
    base = url.rstrip("/").removesuffix("/v1")
    if not base.startswith(("http://", "https://")):
        raise ConfigurationError(
            f"{url!r} is not the address of a server.", "Write it with its scheme, for example http://localhost:8000."
        )
    return Connection(server=base, auth=_Bearer(api_key) if api_key else None, remedy=_URL_REMEDY)


def load_connection(
    kubeconfig: str | None = None, context: str | None = None, namespace: str | None = None
) -> Connection:
    """Read the configuration.

    Raises:
        ConfigurationError: there is none, or it cannot be used.
    """
    from kubernetes import client, config  # noqa: PLC0415  (0.7 s that `--url` and offline use do not need)

    settings = client.Configuration()
    try:
        if kubeconfig or context or _has_kubeconfig(config.KUBE_CONFIG_DEFAULT_LOCATION):
            config.load_kube_config(kubeconfig, context, client_configuration=settings, persist_config=False)
            own_namespace = _context_namespace(config, kubeconfig, context)
        else:
            _require_pod()
            config.load_incluster_config(settings)
            own_namespace = _ACCOUNT_NAMESPACE.read_text().strip()
        return _build_connection(settings, namespace or own_namespace or DEFAULT_NAMESPACE)
    except (config.ConfigException, OSError, ValueError) as error:
        raise ConfigurationError(
            f"No usable Kubernetes configuration: {str(error).rstrip('.')}.",
            "Name a file with --kubeconfig or KUBECONFIG, and a context with --context (kubectl config get-contexts).",
        ) from error


def _has_kubeconfig(location: str) -> bool:
    return any(Path(part).expanduser().is_file() for part in location.split(os.pathsep) if part)


def _require_pod() -> None:
    if "KUBERNETES_SERVICE_HOST" not in os.environ:
        raise ValueError("there is no kubeconfig, and this is not a pod of a cluster")


def _context_namespace(config: Any, kubeconfig: str | None, context: str | None) -> str:
    contexts, current = config.list_kube_config_contexts(kubeconfig)
    chosen = next((entry for entry in contexts if entry["name"] == context), current)
    return str(chosen["context"].get("namespace") or "")


def _build_connection(settings: Any, namespace: str) -> Connection:
    host = httpx.URL(settings.host).host
    return Connection(
        server=settings.host,
        namespace=namespace,
        tls=_build_tls(settings),
        auth=_Login(lambda: settings.get_api_key_with_prefix("BearerToken")),
        proxy=None if urllib.request.proxy_bypass(host) else settings.proxy,
        tls_server_name=settings.tls_server_name,
    )


def _build_tls(settings: Any) -> ssl.SSLContext:
    tls = ssl.create_default_context(cafile=settings.ssl_ca_cert)
    if not settings.verify_ssl:
        tls.check_hostname = False
        tls.verify_mode = ssl.CERT_NONE
    if settings.cert_file:
        tls.load_cert_chain(settings.cert_file, settings.key_file)
    return tls


class _Login(httpx.Auth):
    """Sends the token that is valid now. To get one may run a program, so the asynchronous half does it in a thread."""

    def __init__(self, token: Callable[[], str | None]) -> None:
        self._token = token

    def sync_auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        yield self._sign(request, self._ask())

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        yield self._sign(request, await asyncio.to_thread(self._ask))

    def _ask(self) -> str | None:
        try:
            return self._token()
        except Exception as error:
            raise ConfigurationError(
                f"The kubeconfig's login did not yield a token: {error}.",
                "Log in again as your provider says, then check with: kubectl auth whoami.",
            ) from error

    @staticmethod
    def _sign(request: httpx.Request, token: str | None) -> httpx.Request:
        if token:
            request.headers["Authorization"] = token
        return request
