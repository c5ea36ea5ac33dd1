"""Shared objects are validated once for each version."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from llmos.api import LLMModel
from llmos_operator.reconcilers.parsed import Parsed
from tests.operator.reconcilers.world import build_model


def stored(version: str = "1", uid: str = "u", **spec: Any) -> dict[str, Any]:
    model = build_model(**spec)
    return {**model, "metadata": {**model["metadata"], "uid": uid, "resourceVersion": version}}


def test_the_same_version_is_the_same_object_and_another_one_is_not() -> None:
    parsed = Parsed()
    first = parsed.parse(LLMModel, stored())
    assert parsed.parse(LLMModel, stored()) is first
    assert parsed.parse(LLMModel, stored("2", format="gguf")).spec.format == "gguf"
    assert parsed.parse(LLMModel, stored(uid="another")) is not first


def test_what_was_used_longest_ago_is_validated_again() -> None:
    parsed = Parsed(limit=2)
    first, second = parsed.parse(LLMModel, stored("1")), parsed.parse(LLMModel, stored("2"))
    assert parsed.parse(LLMModel, stored("1")) is first
    parsed.parse(LLMModel, stored("3"))
    assert parsed.parse(LLMModel, stored("1")) is first
    assert parsed.parse(LLMModel, stored("2")) is not second


def test_what_is_invalid_is_so_each_time() -> None:
    parsed = Parsed()
    for _ in range(2):
        with pytest.raises(ValidationError):
            parsed.parse(LLMModel, stored(format="pickle"))
