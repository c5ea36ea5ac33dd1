"""The typed client of LLMOS, blocking (`Client`) and asynchronous (`AsyncClient`).

Client / AsyncClient          sync.py, aio.py      one line for each operation
    flows                     resources.py, chat.py, keys.py, logs.py   what is asked and what answers mean; no I/O
    drivers                   transport.py         the only I/O, by httpx
    way to the cluster        connection.py        kubeconfig or the pod's account
    errors                    errors.py, answers.py, readiness.py
"""

from llmos.client.aio import AsyncClient, AsyncEndpoint
from llmos.client.chat import ChatChunk, ChatCompletion, ChatMessage, Usage
from llmos.client.connection import Connection, build_url_connection, load_connection
from llmos.client.errors import (
    ConfigurationError,
    ConflictError,
    ConnectionFailedError,
    EngineError,
    ForbiddenError,
    InvalidError,
    LlmosError,
    NotFoundError,
    NotInstalledError,
    NotReadyError,
    OverloadedError,
    UnauthenticatedError,
    UnreachableError,
)
from llmos.client.keys import SYSTEM_NAMESPACE, CreatedKey, KeyRights, ListedKey, RotatedKey, Rotation
from llmos.client.logs import LogLine, LogNotice, LogOptions
from llmos.client.readiness import Verdict, judge, ready_condition
from llmos.client.resources import Event
from llmos.client.sync import Client, Endpoint

__all__ = [
    "SYSTEM_NAMESPACE",
    "AsyncClient",
    "AsyncEndpoint",
    "ChatChunk",
    "ChatCompletion",
    "ChatMessage",
    "Client",
    "ConfigurationError",
    "ConflictError",
    "Connection",
    "ConnectionFailedError",
    "CreatedKey",
    "Endpoint",
    "EngineError",
    "Event",
    "ForbiddenError",
    "InvalidError",
    "KeyRights",
    "ListedKey",
    "LlmosError",
    "LogLine",
    "LogNotice",
    "LogOptions",
    "NotFoundError",
    "NotInstalledError",
    "NotReadyError",
    "OverloadedError",
    "RotatedKey",
    "Rotation",
    "UnauthenticatedError",
    "UnreachableError",
    "Usage",
    "Verdict",
    "build_url_connection",
    "judge",
    "load_connection",
    "ready_condition",
]
