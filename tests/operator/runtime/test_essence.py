"""kopf keeps no state about objects and writes none into them."""

from __future__ import annotations

from typing import Any

import kopf

from llmos_operator.runtime.essence import NoEssence, NoProgress
from llmos_operator.runtime.handlers import build_kopf_settings

BODY: Any = kopf.Body({"metadata": {"name": "p", "annotations": {"a": "b"}}, "spec": {"replicas": 1}})


def test_the_settings_name_the_storages_that_store_nothing() -> None:
    persistence = build_kopf_settings().persistence
    assert isinstance(persistence.diffbase_storage, NoEssence)
    assert isinstance(persistence.progress_storage, NoProgress)


def test_nothing_is_essential_and_nothing_was_stored() -> None:
    assert NoEssence().build(body=BODY) == {}
    assert NoEssence().fetch(body=BODY) is None
    assert NoProgress().clear(essence=kopf.BodyEssence()) == {}


def test_no_patch_is_ever_filled() -> None:
    patch = kopf.Patch()
    NoEssence().store(body=BODY, patch=patch, essence=kopf.BodyEssence())
    NoProgress().store(key="k", record={}, body=BODY, patch=patch)
    NoProgress().touch(body=BODY, patch=patch, value="now")
    NoProgress().purge(key="k", body=BODY, patch=patch)
    assert not patch
