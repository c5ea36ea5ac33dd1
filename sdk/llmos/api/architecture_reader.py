"""Typed reading of a config.json whose fields nobody validated.

A checkpoint's configuration is input from a stranger: a field may be missing, null, a string, or named as another model
family names it. The reader answers with the first name that holds a value of the wanted type, and with an error that
names every spelling it looked for when a required fact is absent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from llmos.api.architecture import UnsupportedArchitectureError

MAX_LIST_ITEMS = 65_536


@dataclass(frozen=True)
class ConfigReader:
    """One level of a config.json."""

    values: Mapping[str, object]

    def integer(self, *names: str, default: int = 0) -> int:
        """First positive integer under these names, else the default. Booleans are not numbers."""
        for name in names:
            value = self.values.get(name)
            if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < 10**12:
                return int(value)
        return default

    def number(self, *names: str, default: float = 0.0) -> float:
        """First positive number under these names, else the default."""
        for name in names:
            value = self.values.get(name)
            if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < 10**12:
                return float(value)
        return default

    def required(self, *names: str) -> int:
        """As `integer`, but the model cannot be planned without it."""
        value = self.integer(*names)
        if value:
            return value
        raise UnsupportedArchitectureError(
            f"config.json has no usable {' or '.join(names)}. "
            "Use a checkpoint whose config.json describes a text-generation model."
        )

    def text(self, *names: str, default: str = "") -> str:
        """First non-empty string under these names, else the default."""
        for name in names:
            value = self.values.get(name)
            if isinstance(value, str) and value:
                return value
        return default

    def flag(self, name: str, *, default: bool) -> bool:
        """A boolean, else the default."""
        value = self.values.get(name)
        return value if isinstance(value, bool) else default

    def items(self, name: str) -> list[object]:
        """A list, cut at a bound no real model reaches; empty if absent."""
        value = self.values.get(name)
        if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
            return list(value[:MAX_LIST_ITEMS])
        return []

    def texts(self, name: str) -> list[str]:
        """The strings of a list; empty if absent."""
        return [item for item in self.items(name) if isinstance(item, str)]

    def child(self, *names: str) -> ConfigReader:
        """First nested object under these names; an empty reader if absent."""
        for name in names:
            value = self.values.get(name)
            if isinstance(value, Mapping) and value:
                return ConfigReader(value)
        return ConfigReader({})

    def has(self, name: str) -> bool:
        """Whether the field holds anything but null."""
        return self.values.get(name) is not None

    def __bool__(self) -> bool:
        """False for an absent nested object."""
        return bool(self.values)
