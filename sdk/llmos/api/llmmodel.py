"""LLMModel: what a model is, where it comes from, and the facts that were found in it."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from llmos.api.architecture import ModelArchitecture
from llmos.api.canary import Replacement
from llmos.api.meta import (
    POD_NAME_PART,
    ApiModel,
    Conditions,
    KindInfo,
    ListMap,
    ListSet,
    LocalReference,
    Metadata,
    Name,
    PrinterColumn,
    Quantity,
    Rule,
)
from llmos.api.names import API_VERSION

SharedWith = Annotated[str, Field(max_length=63, pattern=r"^(\*|[a-z0-9]([-a-z0-9]*[a-z0-9])?)$")]
"""Name of a Tenant, or `*` for all."""

SOURCE_SCHEMES = ("hf", "s3", "gs", "oci", "https", "http", "pvc", "pypi")


class ModelSource(ApiModel):
    """Where the model's files are."""

    uri: Annotated[
        str,
        Field(max_length=1024),
        Rule(
            r"self.matches('^(hf|s3|gs|oci|https?|pvc|pypi)://[^\\s]+$')",
            "the URI must start with one of hf://, s3://, gs://, oci://, https://, http://, pvc:// or pypi:// "
            "and hold no spaces, for example hf://org/name@revision",
        ),
    ]
    """hf://org/name@revision, s3://bucket/path, gs://bucket/path, oci://registry/repository:tag, https://host/path/,
    pvc://claim/path or pypi://distribution==version/path-in-wheel."""
    secret_ref: LocalReference | None = None
    """Secret whose keys become environment variables of the inspect and fetch steps only, for example HF_TOKEN."""


class ModelStorage(ApiModel):
    """Where the fetched files are kept."""

    mode: Literal["ephemeral", "claim"] = "ephemeral"
    """ephemeral: every replica fetches into its own scratch space while it already holds its accelerator, for small
    models. claim: fetched once into a PersistentVolumeClaim before any accelerator is held."""
    size: Quantity = "20Gi"
    """Size of the claim, or limit of the scratch space."""
    storage_class_name: Name | None = None
    """StorageClass of the claim; empty means the cluster's default."""
    access_mode: Literal["ReadWriteOnce", "ReadWriteMany"] = "ReadWriteOnce"
    """ReadWriteMany lets replicas on several nodes share the claim, where the StorageClass can do it."""
    keep: bool = False
    """Keep the claim when the model is deleted."""


class TrustRemoteCode(ApiModel):
    """Permission to run Python code that comes with the model. Absent means never."""

    revision: Annotated[str, Field(max_length=40, pattern=r"^[0-9a-f]{40}$")]
    """Full commit whose code was reviewed; only this commit may run."""


class AdapterOf(ApiModel):
    """What a LoRA adapter belongs to."""

    base_model_ref: LocalReference
    """The LLMModel that it changes."""
    attach_to: Annotated[tuple[Name, ...], Field(max_length=16), ListSet()] = ()
    """InferencePools of the base model that load it, beside those that name it in their spec.adapters."""
    replaces: Annotated[tuple[Replacement, ...], Field(max_length=16), ListMap(("pool",))] = ()
    """Names of other adapters that it answers in their place, in pools that load it. A FineTuneJob with a canary writes
    this until the canary has ended; then it is yours."""


class Origin(ApiModel):
    """What a FineTuneJob made a model from. The job writes it when it registers its result."""

    job: Name
    """The FineTuneJob."""
    base_digest: Annotated[str, Field(max_length=128)] = ""
    """Digest of the base model that was learned on. An adapter is loaded only beside a base model that has it still."""
    dataset_digest: Annotated[str, Field(max_length=128)] = ""
    """Digest of the prepared dataset, as in the job's status.datasetReport and in llmos.json beside the weights."""


class LLMModelSpec(ApiModel):
    """What the user asks for."""

    source: ModelSource
    """Where the model's files are."""
    adapter: AdapterOf | None = None
    """Present if the files are a LoRA adapter (adapter_config.json and adapter_model.safetensors)."""
    origin: Origin | None = None
    """What a FineTuneJob made it from."""
    format: Literal["auto", "safetensors", "gguf"] = "auto"
    """Format of the weights; gguf is converted once. Pickle formats are refused."""
    storage: ModelStorage = ModelStorage()
    """Where the fetched files are kept."""
    trust_remote_code: TrustRemoteCode | None = None
    """Permission to run code that comes with the model. Absent means never."""
    shared_with: Annotated[tuple[SharedWith, ...], Field(max_length=64), ListSet()] = ()
    """Tenants of other namespaces whose API keys may call the pools of this model where their `spec.models.allow` names
    it, too; `*` = all. Empty = none. Pools in namespaces of a tenant with dedicatedPools are never shared."""


class ResolvedAdapter(ApiModel):
    """Facts of a LoRA adapter."""

    rank: Annotated[int, Field(ge=1)]
    """Inner size of its matrices, the largest one."""
    target_modules: Annotated[tuple[Annotated[str, Field(max_length=128)], ...], Field(max_length=256)] = ()
    """Modules that it changes."""
    head: Annotated[str, Field(max_length=128)] = ""
    """Output layer of its own, for example that of a classifier; empty = it answers with the base model's words."""


class ResolvedModel(ApiModel):
    """Facts that the inspect step found, enough to plan without fetching the weights."""

    digest: Annotated[str, Field(max_length=128)]
    """sha256 over the names, sizes and known digests of the model's files."""
    revision: Annotated[str, Field(max_length=256)] = ""
    """The exact revision that the source resolved to."""
    format: Literal["safetensors", "gguf"] = "safetensors"
    """Format of the weights at the source."""
    architecture: Annotated[str, Field(max_length=128)]
    """First entry of `architectures` in config.json, for example LlamaForCausalLM."""
    parameters: Annotated[int, Field(ge=0)]
    """Number of parameters."""
    layers: Annotated[int, Field(ge=0)]
    """Number of hidden layers."""
    kv_heads: Annotated[int, Field(ge=0)]
    """Number of key-value heads."""
    head_dim: Annotated[int, Field(ge=0)]
    """Size of one head."""
    vocabulary: Annotated[int, Field(ge=0)]
    """Number of tokens in the vocabulary."""
    max_context: Annotated[int, Field(ge=0)]
    """Longest context in tokens that the model was made for."""
    weights_bytes: Annotated[int, Field(ge=0)]
    """Size of the weights as served (after conversion) in bytes."""
    download_bytes: Annotated[int, Field(ge=0)] = 0
    """Size of all files to fetch in bytes."""
    dtype: Annotated[str, Field(max_length=32)]
    """Type of the weights, for example bfloat16."""
    quantization: Annotated[str, Field(max_length=64)] = ""
    """Quantization method, empty for none."""
    config: ModelArchitecture | None = None
    """Further numbers of config.json that the memory planner needs."""
    adapter: ResolvedAdapter | None = None
    """Present if the files are a LoRA adapter; layers, heads and vocabulary are then 0."""


class FetchProgress(ApiModel):
    """How far the download is."""

    bytes_done: Annotated[int, Field(ge=0)] = 0
    """Bytes that have arrived."""
    bytes_total: Annotated[int, Field(ge=0)] = 0
    """Bytes to fetch in all."""
    bytes_per_second: Annotated[int, Field(ge=0)] = 0
    """Rate over the last seconds."""
    eta_seconds: Annotated[int, Field(ge=0)] | None = None
    """Seconds to go at this rate."""


class LLMModelStatus(ApiModel):
    """What is true now."""

    observed_generation: Annotated[int, Field(ge=0)] = 0
    """The generation that this status speaks about."""
    summary: Annotated[str, Field(max_length=256)] = ""
    """One line for people: architecture, parameters, type, size."""
    source_hash: Annotated[str, Field(max_length=64)] = ""
    """Short hash of the source that `resolved` belongs to."""
    resolved: ResolvedModel | None = None
    """Facts that the inspect step found."""
    fetch: FetchProgress | None = None
    """How far the download is, while it runs."""
    claim_name: Annotated[str, Field(max_length=253)] = ""
    """PersistentVolumeClaim that holds the files, for storage mode claim."""
    attempts: Annotated[int, Field(ge=0)] = 0
    """Failed attempts of the step that is being tried, for the back-off."""
    conditions: Conditions = ()
    """Resolved, Stored and their aggregate Ready."""


class LLMModel(ApiModel):
    """A language model: where its files come from and what was found in them. Pools refer to it by name."""

    info: ClassVar[KindInfo] = KindInfo(
        kind="LLMModel",
        plural="llmmodels",
        singular="llmmodel",
        short_names=("llm",),
        scope="Namespaced",
        columns=(
            PrinterColumn("Source", "string", ".spec.source.uri", "Where the files come from", priority=1),
            PrinterColumn("Model", "string", ".status.summary", "What was found"),
            PrinterColumn("Ready", "string", '.status.conditions[?(@.type=="Ready")].status', "May be served"),
            PrinterColumn("Reason", "string", '.status.conditions[?(@.type=="Ready")].reason', "Why"),
            PrinterColumn("Age", "date", ".metadata.creationTimestamp"),
        ),
    )
    rules: ClassVar[tuple[Rule, ...]] = (
        POD_NAME_PART,
        Rule(
            "!has(self.spec.adapter) || !has(self.spec.adapter.replaces) || "
            "self.spec.adapter.replaces.all(each, each.name != self.metadata.name)",
            "an adapter cannot replace itself: name another one in replaces",
            field_path=".spec.adapter.replaces",
        ),
    )

    api_version: Literal["llmos.dev/v1alpha1"] = API_VERSION
    kind: Literal["LLMModel"] = "LLMModel"
    metadata: Metadata
    spec: LLMModelSpec
    """What the user asks for."""
    status: LLMModelStatus = LLMModelStatus()
    """What is true now."""
