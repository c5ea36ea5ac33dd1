"""Whatever the gateway tells Prometheus stands in its reference."""

from __future__ import annotations

import re
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from tests.gateway.stage import open_gateway

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "gateway.md"
PREFIX = "llmos_gateway_"


async def test_every_metric_is_explained_and_nothing_else_is() -> None:
    async with open_gateway() as stage:
        families = list(text_string_to_metric_families(await stage.scrape()))
    told = {f"{family.name}_total" if family.type == "counter" else family.name for family in families}
    section = PAGE.read_text().partition("| `llmos_gateway_...` | |")[2].partition("\n## ")[0]
    first_cells = "".join(line.split("|")[1] for line in section.splitlines() if line.count("|") > 1)
    explained = set(re.findall(r"`([a-z_]+)`", first_cells))
    assert {name.removeprefix(PREFIX) for name in told if name.startswith(PREFIX)} == explained
