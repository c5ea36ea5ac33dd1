"""Where the API server is and who we are, also in the words of kopf's client.

Both clients in the process, ours and kopf's, get their connection from here, so that they can never talk to different
clusters.
"""

from __future__ import annotations

from dataclasses import dataclass

from llmos.kubeconfig import Configuration, NoClusterError, load_configuration

__all__ = ["Configuration", "Connection", "NoClusterError", "load_configuration", "read_connection"]


@dataclass(frozen=True)
class Connection:
    """A configuration in the words of a client other than ours."""

    server: str
    ca_path: str | None
    certificate_path: str | None
    private_key_path: str | None
    scheme: str | None
    """`Bearer` or `Basic`."""
    token: str | None
    insecure: bool
    proxy_url: str | None


async def read_connection(configuration: Configuration) -> Connection:
    """Return the present connection; a token in it may expire, so ask again when it is refused."""
    auth = (await configuration.auth_settings()).get("BearerToken", {}).get("value") or ""
    scheme, _, token = auth.partition(" ")
    return Connection(
        server=configuration.host,
        ca_path=configuration.ssl_ca_cert,
        certificate_path=configuration.cert_file,
        private_key_path=configuration.key_file,
        scheme=scheme.capitalize() or None,
        token=token.strip() or None,
        insecure=not configuration.verify_ssl,
        proxy_url=configuration.proxy,
    )
