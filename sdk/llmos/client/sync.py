"""The blocking client: each method runs one flow of resources.py or chat.py, as in its twin aio.py."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Generic, Literal, Self, Unpack, overload

import httpx

from llmos.api import AcceleratorClass, AttachTo, FineTuneJob, InferencePool, LLMModel, Tenant
from llmos.client.chat import (
    ChatChunk,
    ChatCompletion,
    ChatFlows,
    ChatMessage,
    ChatOptions,
    build_pool_chat,
    guard_pool,
)
from llmos.client.connection import Connection, build_url_connection, load_connection
from llmos.client.keys import (
    SYSTEM_NAMESPACE,
    CreatedKey,
    KeyFlows,
    KeyRights,
    ListedKey,
    RotatedKey,
    Rotation,
)
from llmos.client.logs import WHOLE_LOG, L, LogFlows, LogLine, LogNotice, LogOptions
from llmos.client.resources import DEFAULT_FIELD_MANAGER, Event, M, ResourceFlows
from llmos.client.scaling import read_scaling_samples
from llmos.client.transport import Driver, discard


class Resources(Generic[M]):
    """The objects of one kind. `namespace` defaults to the client's."""

    def __init__(self, driver: Driver, flows: ResourceFlows[M], namespace: str) -> None:
        self._driver = driver
        self._flows = flows
        self._namespace = namespace

    def get(self, name: str, *, namespace: str | None = None) -> M:
        """Read one object."""
        return self._driver.run(self._flows.get(namespace or self._namespace, name))

    def list(
        self, *, namespace: str | None = None, all_namespaces: bool = False, label_selector: str = ""
    ) -> tuple[M, ...]:
        """Read the objects of the namespace, or of all."""
        where = None if all_namespaces else namespace or self._namespace
        return self._driver.run(self._flows.list(where, label_selector))

    def apply(self, thing: M, *, field_manager: str = DEFAULT_FIELD_MANAGER, force: bool = False) -> M:
        """Create the object or bring the fields that are set on it in line (server-side apply).

        Raises:
            ConflictError: another field manager owns a field with another value, and `force` is false.
        """
        return self._driver.run(self._flows.apply(self._namespace, thing, field_manager, force))

    def create(self, thing: M, *, field_manager: str = DEFAULT_FIELD_MANAGER) -> M:
        """Make the object.

        Raises:
            ConflictError: there is one of that name.
        """
        return self._driver.run(self._flows.create(self._namespace, thing, field_manager))

    def delete(self, name: str, *, namespace: str | None = None) -> None:
        """Ask for the object to go; finalizers may hold it for a while."""
        self._driver.run(self._flows.delete(namespace or self._namespace, name))

    def watch(self, *, namespace: str | None = None, all_namespaces: bool = False) -> Generator[Event[M], None, None]:
        """Yield all objects as ADDED and then every change, without end; close the iterator to stop."""
        where = None if all_namespaces else namespace or self._namespace
        return self._driver.iterate(self._flows.watch(where))

    def wait_ready(
        self,
        name: str,
        timeout_s: float,
        *,
        namespace: str | None = None,
        on_change: Callable[[M], None] = discard,
    ) -> M:
        """Wait until the object is ready and return it; `on_change` sees every state on the way.

        Raises:
            NotReadyError: the deadline passed, or nothing will change until somebody acts.
            NotFoundError: there is no such object, or it was deleted meanwhile.
        """
        return self._driver.run(self._flows.wait_ready(namespace or self._namespace, name, timeout_s), on_change)


class LoggedResources(Resources[L]):
    """The objects of a kind that has pods."""

    def logs(
        self, name: str, options: LogOptions = WHOLE_LOG, *, namespace: str | None = None
    ) -> Generator[LogLine | LogNotice, None, None]:
        """Yield lines of the logs of the object's pods, and notices while there are none; close the iterator to stop.

        With `follow` it goes on over attempts and replicas, until a job or a model's fetch has ended.

        Raises:
            NotFoundError: there is no such object, or no pod of it is left.
            NotReadyError: no pod of it has started, and `follow` is false.
        """
        return self._driver.iterate(LogFlows(self._flows).read(namespace or self._namespace, name, options))


class Jobs(LoggedResources[FineTuneJob]):
    """FineTuneJobs, which can also be suspended; `wait_ready` waits until one has succeeded."""

    def suspend(self, name: str, *, namespace: str | None = None) -> FineTuneJob:
        """Have the job save a checkpoint, give its accelerators back and wait for `resume`."""
        flow = self._flows.suspend(namespace or self._namespace, name, DEFAULT_FIELD_MANAGER, suspend=True)
        return self._driver.run(flow)

    def resume(self, name: str, *, namespace: str | None = None) -> FineTuneJob:
        """Have a suspended job go on from its last checkpoint."""
        flow = self._flows.suspend(namespace or self._namespace, name, DEFAULT_FIELD_MANAGER, suspend=False)
        return self._driver.run(flow)

    def attach(self, name: str, targets: Sequence[AttachTo], *, namespace: str | None = None) -> FineTuneJob:
        """Have the result served by these pools and no others: weight 100 promotes a canary, leaving it out detaches
        it."""
        return self._driver.run(self._flows.attach(namespace or self._namespace, name, DEFAULT_FIELD_MANAGER, targets))


class Pools(LoggedResources[InferencePool]):
    """InferencePools, which can also be scaled and talked to."""

    def scale(self, name: str, replicas: int, *, namespace: str | None = None) -> None:
        """Set the number of replicas; wait_ready tells when they answer."""
        self._driver.run(self._flows.scale(namespace or self._namespace, name, replicas, DEFAULT_FIELD_MANAGER))

    def scaling_samples(self, name: str, *, namespace: str | None = None, operator_namespace: str | None = None) -> str:
        """The operator's last decisions about a pool, one line of JSON each; `llmos replay` runs them again.

        Raises:
            NotFoundError: there is no operator, or it decides nothing about such a pool.
        """
        return self._driver.run(read_scaling_samples(namespace or self._namespace, name, operator_namespace))

    @overload
    def chat(
        self,
        name: str,
        messages: Sequence[ChatMessage],
        *,
        stream: Literal[True] = True,
        namespace: str | None = None,
        **options: Unpack[ChatOptions],
    ) -> Generator[ChatChunk, None, None]: ...

    @overload
    def chat(
        self,
        name: str,
        messages: Sequence[ChatMessage],
        *,
        stream: Literal[False],
        namespace: str | None = None,
        **options: Unpack[ChatOptions],
    ) -> ChatCompletion: ...

    def chat(
        self,
        name: str,
        messages: Sequence[ChatMessage],
        *,
        stream: bool = True,
        namespace: str | None = None,
        **options: Unpack[ChatOptions],
    ) -> Generator[ChatChunk, None, None] | ChatCompletion:
        """Talk to a pool through the API server. Close the iterator to stop the answer.

        Raises:
            NotReadyError: none of its replicas answers; reason and message are those of the pool.
        """
        where = namespace or self._namespace
        talk = build_pool_chat(where, name)
        if stream:
            return self._driver.iterate(guard_pool(self._flows, where, name, talk.stream(messages, options)))
        return self._driver.run(guard_pool(self._flows, where, name, talk.complete(messages, options)))


class Keys:
    """API keys of the gateway in `system_namespace`."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._flows = KeyFlows()

    def create(self, rights: KeyRights, *, name: str = "", system_namespace: str = SYSTEM_NAMESPACE) -> CreatedKey:
        """Make a key. It is in this answer and nowhere else: only its hash is stored.

        Raises:
            NotFoundError: there is no such Tenant.
            ConflictError: there is a Secret of that name.
        """
        return self._driver.run(self._flows.create(system_namespace, name, rights))

    def list(self, *, system_namespace: str = SYSTEM_NAMESPACE) -> tuple[ListedKey, ...]:
        """Read all keys."""
        return self._driver.run(self._flows.list(system_namespace))

    def revoke(self, name_or_id: str, *, system_namespace: str = SYSTEM_NAMESPACE) -> ListedKey:
        """Delete a key; gateways refuse it within a second.

        Raises:
            NotFoundError: there is no such key.
        """
        return self._driver.run(self._flows.revoke(system_namespace, name_or_id))

    def rotate(self, name_or_id: str, rotation: Rotation, *, system_namespace: str = SYSTEM_NAMESPACE) -> RotatedKey:
        """Make a key of the same rights, and let the old one end after a time in which both are good.

        Raises:
            NotFoundError: there is no such key, or its Tenant is gone.
            InvalidError: the old one is no usable key.
        """
        return self._driver.run(self._flows.rotate(system_namespace, name_or_id, rotation))


class _Closing:
    _driver: Driver

    def close(self) -> None:
        """Close all connections."""
        self._driver.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Client(_Closing):
    """LLMOS in one cluster, found as kubectl finds it unless a `connection` is given.

    Raises:
        ConfigurationError: there is no usable configuration.
    """

    def __init__(
        self,
        *,
        kubeconfig: str | None = None,
        context: str | None = None,
        namespace: str | None = None,
        connection: Connection | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        connection = connection or load_connection(kubeconfig, context)
        self.namespace = namespace or connection.namespace
        self._driver = Driver(connection, transport)
        self.models = LoggedResources(self._driver, ResourceFlows(LLMModel), self.namespace)
        self.pools = Pools(self._driver, ResourceFlows(InferencePool), self.namespace)
        self.jobs = Jobs(self._driver, ResourceFlows(FineTuneJob), self.namespace)
        self.accelerators = Resources(self._driver, ResourceFlows(AcceleratorClass), self.namespace)
        self.tenants = Resources(self._driver, ResourceFlows(Tenant), self.namespace)
        self.keys = Keys(self._driver)


class Endpoint(_Closing):
    """One OpenAI-compatible server at an address, without any cluster: a gateway, a port-forward, a simulator."""

    def __init__(self, url: str, *, api_key: str = "", transport: httpx.BaseTransport | None = None) -> None:
        self._driver = Driver(build_url_connection(url, api_key), transport)
        self._flows = ChatFlows(title=url)

    @overload
    def chat(
        self, messages: Sequence[ChatMessage], *, stream: Literal[True] = True, **options: Unpack[ChatOptions]
    ) -> Generator[ChatChunk, None, None]: ...

    @overload
    def chat(
        self, messages: Sequence[ChatMessage], *, stream: Literal[False], **options: Unpack[ChatOptions]
    ) -> ChatCompletion: ...

    def chat(
        self, messages: Sequence[ChatMessage], *, stream: bool = True, **options: Unpack[ChatOptions]
    ) -> Generator[ChatChunk, None, None] | ChatCompletion:
        """Talk to the server. Close the iterator to stop the answer."""
        if stream:
            return self._driver.iterate(self._flows.stream(messages, options))
        return self._driver.run(self._flows.complete(messages, options))
