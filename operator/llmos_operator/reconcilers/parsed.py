"""Objects that many others refer to, validated once for each of their versions.

A model with the facts of its architecture takes longer to validate than all the rest of a look at a pool, and a
thousand pools may refer to it. Validated objects are frozen, so that all of them may share one.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any, Final, TypeVar

from pydantic import ValidationError

from llmos.api.meta import ApiModel
from llmos_operator.kube.client import Object

LIMIT_OBJECTS: Final = 256
"""What was used longest ago goes first."""

T = TypeVar("T", bound=ApiModel)


class Parsed:
    """Validated objects by kind, uid and version."""

    def __init__(self, *, limit: int = LIMIT_OBJECTS) -> None:
        self._limit = limit
        self._objects: OrderedDict[tuple[type[ApiModel], str, str], Any] = OrderedDict()

    def parse_readable(self, kind: type[T], bodies: Iterable[Object]) -> tuple[T, ...]:
        """Return the objects that can be read; of others their own reconcile tells."""
        parsed = []
        for body in bodies:
            with contextlib.suppress(ValidationError):
                parsed.append(self.parse(kind, body))
        return tuple(parsed)

    def parse(self, kind: type[T], body: Object) -> T:
        """Return the object that `body` describes.

        Raises:
            ValidationError: the body is not as `kind` says.
        """
        metadata = body["metadata"]
        key = (kind, metadata["uid"], metadata["resourceVersion"])
        parsed: T | None = self._objects.pop(key, None)
        if parsed is None:
            parsed = kind.model_validate(body)
        self._objects[key] = parsed
        if len(self._objects) > self._limit:
            self._objects.popitem(last=False)
        return parsed
