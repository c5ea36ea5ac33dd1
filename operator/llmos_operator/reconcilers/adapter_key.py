"""The key from which tokens for adapters are made: a Secret in the operator's namespace, made when it is first needed.

No Secret of any other namespace is read or written: what pods know of a token is its sha256, in their manifest.
"""

from __future__ import annotations

import base64
import secrets
from typing import Final

from llmos.api.names import COMPONENT_ADAPTER_KEY, LABEL_COMPONENT, LABEL_MANAGED_BY, MANAGED_BY
from llmos_operator.kube.client import Kube
from llmos_operator.kube.errors import Conflict, Invalid
from llmos_operator.kube.resources import SECRETS

SECRET_NAME: Final = "llmos-adapter-key"  # noqa: S105 - the name of an object
_FIELD: Final = "key"


class AdapterKeys:
    """Remembers the key."""

    def __init__(self) -> None:
        self._key = ""

    async def read(self, kube: Kube, namespace: str) -> str:
        """Return the key, made anew if there is none."""
        if not self._key:
            self._key = await self._find(kube, namespace) or await self._make(kube, namespace)
        return self._key

    async def _find(self, kube: Kube, namespace: str) -> str:
        selector = f"{LABEL_COMPONENT}={COMPONENT_ADAPTER_KEY}"
        found = await kube.list(SECRETS, namespace=namespace, label_selector=selector)
        keys = [base64.b64decode(item["data"][_FIELD]).decode() for item in found if item.get("data", {}).get(_FIELD)]
        return keys[0] if keys else ""

    async def _make(self, kube: Kube, namespace: str) -> str:
        key = secrets.token_hex()
        labels = {LABEL_MANAGED_BY: MANAGED_BY, LABEL_COMPONENT: COMPONENT_ADAPTER_KEY}
        manifest = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": SECRET_NAME, "namespace": namespace, "labels": labels},
            "type": "Opaque",
            "data": {_FIELD: base64.b64encode(key.encode()).decode()},
        }
        try:
            await kube.create(manifest)
        except Conflict as error:
            # Tokens made of an empty key would be known to everybody: without a key none is made.
            if not (found := await self._find(kube, namespace)):
                raise Invalid(
                    f"Secret {namespace}/{SECRET_NAME} exists, but not as LLMOS made it: it has no label "
                    f"{LABEL_COMPONENT}={COMPONENT_ADAPTER_KEY}, or no {_FIELD}. Delete it; a new one is made."
                ) from error
            return found
        return key
