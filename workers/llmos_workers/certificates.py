"""Which certificates the clients of all steps trust."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

_VARIABLES: Final = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "AWS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_CERT")


def build_ca_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Variables that make every client trust the bundle named by LLMOS_CA_BUNDLE, where that file exists."""
    bundle = environment.get("LLMOS_CA_BUNDLE", "")
    return dict.fromkeys(_VARIABLES, bundle) if bundle and Path(bundle).is_file() else {}
