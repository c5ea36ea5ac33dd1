"""Personal data that has a form: addresses of mail and network, numbers of telephones, bank accounts and cards.

Found by the pattern recognizers of Presidio, called one by one: none of them needs a language model, and nothing is
downloaded. Names and street addresses have no form and are not found. Checksums are verified where there are any (IBAN,
cards); a version number of four parts is taken for an IP address, and a telephone number needs its country code or the
form of one of the countries below.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import tldextract
from presidio_analyzer import RecognizerResult
from presidio_analyzer.predefined_recognizers import (
    CreditCardRecognizer,
    EmailRecognizer,
    IbanRecognizer,
    IpRecognizer,
    PhoneRecognizer,
)

from llmos_workers.prepare.examples import Example, map_texts

_REGIONS: Final = ("US", "GB", "DE", "FR", "IN", "BR")
_MIN_DIGITS: Final = 7
"""Fewest digits of a telephone number, a card or an account."""


class _OfflineEmailRecognizer(EmailRecognizer):  # type: ignore[misc]  # Presidio publishes no types
    """Presidio's, but with the list of domains that its library brings along, instead of a download."""

    _extract = tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None)

    def validate_result(self, pattern_text: str) -> bool:
        return bool(self._extract(pattern_text).top_domain_under_public_suffix)


class PersonalData:
    """Finds and hides personal data."""

    def __init__(self) -> None:
        """Load the recognizers."""
        self._mail = _OfflineEmailRecognizer()
        self._network = IpRecognizer()
        self._numbers = (CreditCardRecognizer(), IbanRecognizer(), PhoneRecognizer(supported_regions=_REGIONS))

    def clean(self, example: Example) -> tuple[Example, set[str]]:
        """Return the example without personal data, and the kinds of it that were found."""
        kinds: set[str] = set()

        def change(text: str) -> str:
            found = self.find(text)
            kinds.update(str(one.entity_type) for one in found)
            return hide(text, found)

        return map_texts(example, change), kinds

    def find(self, text: str) -> list[RecognizerResult]:
        """Return what is found, in order, without overlaps: of two the surer one, then the longer one stays."""
        found: list[RecognizerResult] = []
        for recognizer in self._choose(text):
            found += recognizer.analyze(text, recognizer.supported_entities, None) or []
        found.sort(key=lambda one: (-one.score, one.start - one.end, one.start))
        kept: list[RecognizerResult] = []
        for one in found:
            if not any(one.start < other.end and other.start < one.end for other in kept):
                kept.append(one)
        return sorted(kept, key=lambda one: int(one.start))

    def _choose(self, text: str) -> Iterable[EmailRecognizer]:
        # The patterns are slow, and most texts hold nothing that could match.
        if "@" in text:
            yield self._mail
        digits = sum(character.isdigit() for character in text)
        if "::" in text or digits >= 4:
            yield self._network
        if digits >= _MIN_DIGITS:
            yield from self._numbers


def hide(text: str, found: Sequence[RecognizerResult]) -> str:
    """Return the text with each find replaced by its kind, for example <EMAIL_ADDRESS>."""
    parts, end = [], 0
    for one in found:
        parts += [text[end : one.start], f"<{one.entity_type}>"]
        end = one.end
    return "".join([*parts, text[end:]])
