"""What is in flight and was counted: this gateway's book, its answer to `GET /load`, and what others report."""

from llmos_gateway.load.book import LoadBook, Outcome, Usage
from llmos_gateway.load.canaries import CanaryBook
from llmos_gateway.load.handler import build_load_handler
from llmos_gateway.load.placements import Told, build_told, read_told
from llmos_gateway.load.reports import Fetch, Reports

__all__ = [
    "CanaryBook",
    "Fetch",
    "LoadBook",
    "Outcome",
    "Reports",
    "Told",
    "Usage",
    "build_load_handler",
    "build_told",
    "read_told",
]
