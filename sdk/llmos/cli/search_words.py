"""What a search varies, as people write it: `learning-rate=1e-5..3e-3:log`, `rank=8,16,32`. Pure."""

from __future__ import annotations

import re
from typing import Any, Final, get_args

from llmos.api.search import ParameterName

NAMES: Final[tuple[str, ...]] = get_args(ParameterName)
_NUMBER: Final = r"\d+(?:\.\d+)?(?:[eE][-+]?\d+)?"
_RANGE: Final = re.compile(rf"(?P<low>{_NUMBER})\.\.(?P<high>{_NUMBER})(?P<log>:log)?")
_VALUES: Final = re.compile(rf"{_NUMBER}(,{_NUMBER})*")


class BadParameterError(ValueError):
    """The words say nothing that can be varied; the message says what is expected."""


def parse_parameter(text: str) -> dict[str, Any]:
    """Read what may vary, as an item of spec.search.parameters.

    Raises:
        BadParameterError: it is not understood, or there is no such hyperparameter.
    """
    name, _, said = text.partition("=")
    name = _find_name(name.strip())
    said = said.strip()
    if match := _RANGE.fullmatch(said):
        low, high = float(match["low"]), float(match["high"])
        if low >= high:
            raise BadParameterError(f"{text!r}: {low:g} must be below {high:g}")
        if match["log"] and low == 0:
            raise BadParameterError(f"{text!r}: a logarithmic scale begins above 0")
        return {"name": name, "min": low, "max": high} | ({"log": True} if match["log"] else {})
    if _VALUES.fullmatch(said):
        return {"name": name, "values": [float(value) for value in said.split(",")]}
    raise BadParameterError(
        f"{text!r} is no NAME=VALUES: write learning-rate=1e-5..3e-3:log for a range, on a logarithmic scale, or "
        "rank=8,16,32 for values"
    )


def _find_name(name: str) -> str:
    plain = name.replace("-", "").replace("_", "").lower()
    found = next((each for each in NAMES if each.lower() == plain), None)
    if found is None:
        raise BadParameterError(f"{name!r} cannot be searched for, only {', '.join(NAMES)}")
    return found
