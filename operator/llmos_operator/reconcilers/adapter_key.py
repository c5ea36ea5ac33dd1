"""The key from which tokens for adapters are made: a Secret in the operator's namespace, made when it is first needed.

No Secret of any other namespace is read or written: what pods know of a token is its sha256, in their manifest.

A key that cannot be read stops nothing that runs: replicas serve what they have loaded. But no replica is made without
its token, and none is told anything, until the key is there; pools say so.
"""

from __future__ import annotations

import base64
import binascii
import secrets
from typing import Final

from llmos.api import Reason
from llmos.api.names import COMPONENT_ADAPTER_KEY, LABEL_COMPONENT, LABEL_MANAGED_BY, MANAGED_BY
from llmos_operator.kube.client import Kube
from llmos_operator.kube.errors import Conflict, Forbidden, Invalid, NotFound
from llmos_operator.kube.resources import SECRETS
from llmos_operator.planning.failures import Failure, build_failure

SECRET_NAME: Final = "llmos-adapter-key"  # noqa: S105 - the name of an object
_FIELD: Final = "key"


class KeyUnreadableError(Exception):
    """There is no key, and none can be made. `failure` has the remedy."""

    def __init__(self, failure: Failure) -> None:
        """Say what `failure` says."""
        super().__init__(failure.message)
        self.failure = failure


class AdapterKeys:
    """Remembers the key."""

    def __init__(self) -> None:
        self._key = ""

    async def read(self, kube: Kube, namespace: str) -> str:
        """Return the key, made anew if there is none.

        Raises:
            KeyUnreadableError: it may not be read or made, or it is not as LLMOS made it.
        """
        if not self._key:
            try:
                self._key = await self._find(kube, namespace) or await self._make(kube, namespace)
            except (Forbidden, Invalid, NotFound) as error:
                raise KeyUnreadableError(build_failure(Reason.AdapterKeyUnreadable, error.message)) from error
        return self._key

    async def _find(self, kube: Kube, namespace: str) -> str:
        selector = f"{LABEL_COMPONENT}={COMPONENT_ADAPTER_KEY}"
        found = await kube.list(SECRETS, namespace=namespace, label_selector=selector)
        try:
            texts = (item["data"][_FIELD] for item in found if (item.get("data") or {}).get(_FIELD))
            return next((base64.b64decode(text, validate=True).decode() for text in texts), "")
        except (binascii.Error, UnicodeDecodeError) as error:
            raise Invalid(f"Secret {namespace}/{SECRET_NAME} holds no key, but something else.") from error

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
                    f"{LABEL_COMPONENT}={COMPONENT_ADAPTER_KEY}, or no {_FIELD}."
                ) from error
            return found
        return key
