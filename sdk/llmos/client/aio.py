"""The asynchronous client: each method runs one flow of resources.py or chat.py, as in its twin sync.py."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
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
from llmos.client.transport import AsyncDriver, discard


class AsyncResources(Generic[M]):
    """The objects of one kind. `namespace` defaults to the client's."""

    def __init__(self, driver: AsyncDriver, flows: ResourceFlows[M], namespace: str) -> None:
        self._driver = driver
        self._flows = flows
        self._namespace = namespace

    async def get(self, name: str, *, namespace: str | None = None) -> M:
        """Read one object."""
        return await self._driver.run(self._flows.get(namespace or self._namespace, name))

    async def list(
        self, *, namespace: str | None = None, all_namespaces: bool = False, label_selector: str = ""
    ) -> tuple[M, ...]:
        """Read the objects of the namespace, or of all."""
        where = None if all_namespaces else namespace or self._namespace
        return await self._driver.run(self._flows.list(where, label_selector))

    async def apply(self, thing: M, *, field_manager: str = DEFAULT_FIELD_MANAGER, force: bool = False) -> M:
        """As `Resources.apply`."""
        return await self._driver.run(self._flows.apply(self._namespace, thing, field_manager, force))

    async def create(self, thing: M, *, field_manager: str = DEFAULT_FIELD_MANAGER) -> M:
        """As `Resources.create`."""
        return await self._driver.run(self._flows.create(self._namespace, thing, field_manager))

    async def delete(self, name: str, *, namespace: str | None = None) -> None:
        """Ask for the object to go; finalizers may hold it for a while."""
        await self._driver.run(self._flows.delete(namespace or self._namespace, name))

    def watch(self, *, namespace: str | None = None, all_namespaces: bool = False) -> AsyncGenerator[Event[M], None]:
        """As `Resources.watch`."""
        where = None if all_namespaces else namespace or self._namespace
        return self._driver.iterate(self._flows.watch(where))

    async def wait_ready(
        self,
        name: str,
        timeout_s: float,
        *,
        namespace: str | None = None,
        on_change: Callable[[M], None] = discard,
    ) -> M:
        """As `Resources.wait_ready`."""
        flow = self._flows.wait_ready(namespace or self._namespace, name, timeout_s)
        return await self._driver.run(flow, on_change)


class AsyncLoggedResources(AsyncResources[L]):
    """The objects of a kind that has pods."""

    def logs(
        self, name: str, options: LogOptions = WHOLE_LOG, *, namespace: str | None = None
    ) -> AsyncGenerator[LogLine | LogNotice, None]:
        """As `LoggedResources.logs`."""
        return self._driver.iterate(LogFlows(self._flows).read(namespace or self._namespace, name, options))


class AsyncJobs(AsyncLoggedResources[FineTuneJob]):
    """FineTuneJobs, which can also be suspended; `wait_ready` waits until one has succeeded."""

    async def suspend(self, name: str, *, namespace: str | None = None) -> FineTuneJob:
        """As `Jobs.suspend`."""
        flow = self._flows.suspend(namespace or self._namespace, name, DEFAULT_FIELD_MANAGER, suspend=True)
        return await self._driver.run(flow)

    async def resume(self, name: str, *, namespace: str | None = None) -> FineTuneJob:
        """As `Jobs.resume`."""
        flow = self._flows.suspend(namespace or self._namespace, name, DEFAULT_FIELD_MANAGER, suspend=False)
        return await self._driver.run(flow)

    async def attach(self, name: str, targets: Sequence[AttachTo], *, namespace: str | None = None) -> FineTuneJob:
        """As `Jobs.attach`."""
        return await self._driver.run(
            self._flows.attach(namespace or self._namespace, name, DEFAULT_FIELD_MANAGER, targets)
        )


class AsyncPools(AsyncLoggedResources[InferencePool]):
    """InferencePools, which can also be scaled and talked to."""

    async def scale(self, name: str, replicas: int, *, namespace: str | None = None) -> None:
        """Set the number of replicas; wait_ready tells when they answer."""
        await self._driver.run(self._flows.scale(namespace or self._namespace, name, replicas, DEFAULT_FIELD_MANAGER))

    async def scaling_samples(
        self, name: str, *, namespace: str | None = None, operator_namespace: str | None = None
    ) -> str:
        """As `Pools.scaling_samples`."""
        return await self._driver.run(read_scaling_samples(namespace or self._namespace, name, operator_namespace))

    @overload
    async def chat(
        self,
        name: str,
        messages: Sequence[ChatMessage],
        *,
        stream: Literal[True] = True,
        namespace: str | None = None,
        **options: Unpack[ChatOptions],
    ) -> AsyncGenerator[ChatChunk, None]: ...

    @overload
    async def chat(
        self,
        name: str,
        messages: Sequence[ChatMessage],
        *,
        stream: Literal[False],
        namespace: str | None = None,
        **options: Unpack[ChatOptions],
    ) -> ChatCompletion: ...

    async def chat(
        self,
        name: str,
        messages: Sequence[ChatMessage],
        *,
        stream: bool = True,
        namespace: str | None = None,
        **options: Unpack[ChatOptions],
    ) -> AsyncGenerator[ChatChunk, None] | ChatCompletion:
        """As `Pools.chat`: `async for chunk in await pools.chat(...)`."""
        where = namespace or self._namespace
        talk = build_pool_chat(where, name)
        if stream:
            return self._driver.iterate(guard_pool(self._flows, where, name, talk.stream(messages, options)))
        return await self._driver.run(guard_pool(self._flows, where, name, talk.complete(messages, options)))


class AsyncKeys:
    """As `Keys`, awaiting."""

    def __init__(self, driver: AsyncDriver) -> None:
        self._driver = driver
        self._flows = KeyFlows()

    async def create(
        self, rights: KeyRights, *, name: str = "", system_namespace: str = SYSTEM_NAMESPACE
    ) -> CreatedKey:
        """As `Keys.create`."""
        return await self._driver.run(self._flows.create(system_namespace, name, rights))

    async def list(self, *, system_namespace: str = SYSTEM_NAMESPACE) -> tuple[ListedKey, ...]:
        """As `Keys.list`."""
        return await self._driver.run(self._flows.list(system_namespace))

    async def revoke(self, name_or_id: str, *, system_namespace: str = SYSTEM_NAMESPACE) -> ListedKey:
        """As `Keys.revoke`."""
        return await self._driver.run(self._flows.revoke(system_namespace, name_or_id))

    async def rotate(
        self, name_or_id: str, rotation: Rotation, *, system_namespace: str = SYSTEM_NAMESPACE
    ) -> RotatedKey:
        """Make a key of the same rights, and let the old one end."""
        return await self._driver.run(self._flows.rotate(system_namespace, name_or_id, rotation))


class _Closing:
    _driver: AsyncDriver

    async def close(self) -> None:
        """Close all connections."""
        await self._driver.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class AsyncClient(_Closing):
    """As `Client`, awaiting. The constructor reads the configuration from disk at once."""

    def __init__(
        self,
        *,
        kubeconfig: str | None = None,
        context: str | None = None,
        namespace: str | None = None,
        connection: Connection | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        connection = connection or load_connection(kubeconfig, context)
        self.namespace = namespace or connection.namespace
        self._driver = AsyncDriver(connection, transport)
        self.models = AsyncLoggedResources(self._driver, ResourceFlows(LLMModel), self.namespace)
        self.pools = AsyncPools(self._driver, ResourceFlows(InferencePool), self.namespace)
        self.jobs = AsyncJobs(self._driver, ResourceFlows(FineTuneJob), self.namespace)
        self.accelerators = AsyncResources(self._driver, ResourceFlows(AcceleratorClass), self.namespace)
        self.tenants = AsyncResources(self._driver, ResourceFlows(Tenant), self.namespace)
        self.keys = AsyncKeys(self._driver)


class AsyncEndpoint(_Closing):
    """As `Endpoint`, awaiting."""

    def __init__(self, url: str, *, api_key: str = "", transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._driver = AsyncDriver(build_url_connection(url, api_key), transport)
        self._flows = ChatFlows(title=url)

    @overload
    async def chat(
        self, messages: Sequence[ChatMessage], *, stream: Literal[True] = True, **options: Unpack[ChatOptions]
    ) -> AsyncGenerator[ChatChunk, None]: ...

    @overload
    async def chat(
        self, messages: Sequence[ChatMessage], *, stream: Literal[False], **options: Unpack[ChatOptions]
    ) -> ChatCompletion: ...

    async def chat(
        self, messages: Sequence[ChatMessage], *, stream: bool = True, **options: Unpack[ChatOptions]
    ) -> AsyncGenerator[ChatChunk, None] | ChatCompletion:
        """As `Endpoint.chat`."""
        if stream:
            return self._driver.iterate(self._flows.stream(messages, options))
        return await self._driver.run(self._flows.complete(messages, options))
