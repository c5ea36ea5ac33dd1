"""TLS from files that may be replaced while the process runs, as a mounted Secret is when a certificate is renewed.

The same context gets the new certificate, so connections that are open keep theirs and new ones get the new one. Files
that do not fit (half written, key and certificate of two renewals) leave the old pair in use and are tried again.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from pathlib import Path
from typing import Final, NoReturn

LOOK_EVERY_S: Final = 5.0

_logger = logging.getLogger(__name__)


class TlsFiles:
    """A certificate chain and its key.

    Raises:
        OSError, ssl.SSLError: the files cannot be read, or do not fit each other.
    """

    def __init__(self, certificate: Path, key: Path) -> None:
        self._certificate = certificate
        self._key = key
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.set_alpn_protocols(["http/1.1"])
        self._stamp = self._read_stamp()
        self._load()

    def reload(self) -> bool:
        """Read the files again if they have changed; return whether new ones are in use."""
        try:
            stamp = self._read_stamp()
            if stamp == self._stamp:
                return False
            # A new context first: a pair that does not fit must not replace a half of the old one.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self._certificate, self._key)
            self._load()
        except (OSError, ssl.SSLError) as error:
            _logger.error("The TLS files cannot be used, the old ones stay in use: %s", error)
            return False
        self._stamp = stamp
        _logger.info("New TLS files are in use.")
        return True

    async def watch(self) -> NoReturn:
        """Look for new files for ever."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            await asyncio.to_thread(self.reload)

    def _load(self) -> None:
        self.context.load_cert_chain(self._certificate, self._key)

    def _read_stamp(self) -> tuple[tuple[int, int, int], ...]:
        # A mounted Secret is swapped by a link to another folder: the inode tells even within one tick of the clock.
        found = (path.stat() for path in (self._certificate, self._key))
        return tuple((stat.st_ino, stat.st_mtime_ns, stat.st_size) for stat in found)
