"""OpenAI's requests and responses, as far as the simulator understands them, in the shapes that vLLM gives them.

Fields that steer sampling (temperature, top_p, logprobs, tools, ...) are accepted and change nothing: the simulator's
text means nothing anyway.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

MAX_CHOICES: Final = 128
MAX_INPUTS: Final = 2048

Json = dict[str, Any]


class ApiError(Exception):
    """An error with its HTTP status, in OpenAI's shape."""

    def __init__(self, status: int, kind: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.body: Json = {"error": {"message": message, "type": kind, "param": param, "code": status}}


def build_bad_request(message: str, param: str | None = None) -> ApiError:
    """Status 400 for a request that can never succeed."""
    return ApiError(400, "BadRequestError", message, param)


class ApiRequest(BaseModel):
    """What all requests have in common. Without a model they mean the one that is served."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    model: str | None = None


class StreamOptions(BaseModel):
    """What a streamed answer also tells."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    include_usage: bool = False
    continuous_usage_stats: bool = False


class GenerateRequest(ApiRequest):
    """What chat and text completions have in common."""

    max_tokens: Annotated[
        int | None, Field(ge=1, validation_alias=AliasChoices("max_completion_tokens", "max_tokens"))
    ] = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] = 1
    seed: int | None = None
    stop: str | list[str] | None = None
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    cache_salt: str = ""

    @property
    def stop_strings(self) -> list[str]:
        """`stop` as a list."""
        if self.stop is None:
            return []
        return [self.stop] if isinstance(self.stop, str) else self.stop


class ChatMessage(BaseModel):
    """One turn of a conversation. Parts that are not text count nothing."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    role: str
    content: str | list[Json] | None = None

    @property
    def text(self) -> str:
        """The text of all parts."""
        if isinstance(self.content, list):
            return "".join(str(part.get("text", "")) for part in self.content)
        return self.content or ""


class ChatRequest(GenerateRequest):
    """Body of POST /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]


class CompletionRequest(GenerateRequest):
    """Body of POST /v1/completions. A list of strings or of token lists asks for several prompts."""

    prompt: Annotated[str, Field(min_length=1)] | list[int] | list[str] | list[list[int]]

    @property
    def prompts(self) -> list[str | list[int]]:
        """The prompts, each as text or as token ids."""
        return _split_inputs(self.prompt)


class EmbeddingRequest(ApiRequest):
    """Body of POST /v1/embeddings."""

    input: str | list[int] | list[str] | list[list[int]]
    dimensions: Annotated[int | None, Field(ge=1)] = None
    encoding_format: Annotated[str, Field(pattern="^(float|base64)$")] = "float"

    @property
    def inputs(self) -> list[str | list[int]]:
        """The inputs, each as text or as token ids."""
        return _split_inputs(self.input)


def _split_inputs(value: str | list[int] | list[str] | list[list[int]]) -> list[str | list[int]]:
    if isinstance(value, str):
        return [value]
    if value and isinstance(value[0], int):
        return [[int(token) for token in value if isinstance(token, int)]]
    return [item for item in value if not isinstance(item, int)]


def build_usage(prompt_tokens: int, completion_tokens: int) -> Json:
    """Token counts of a request."""
    return {
        "prompt_tokens": prompt_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "completion_tokens": completion_tokens,
    }


class ChatShape:
    """How answers of /v1/chat/completions look."""

    prefix: Final = "chatcmpl"
    kind: Final = "chat.completion"
    chunk_kind: Final = "chat.completion.chunk"

    @staticmethod
    def build_choice(index: int, text: str, finish_reason: str) -> Json:
        """One whole answer."""
        message = {"role": "assistant", "content": text}
        return {"index": index, "message": message, "logprobs": None, "finish_reason": finish_reason}

    @staticmethod
    def build_first(index: int) -> Json | None:
        """What a stream sends before the first token of a choice."""
        delta = {"role": "assistant", "content": ""}
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}

    @staticmethod
    def build_delta(index: int, piece: str, finish_reason: str | None) -> Json:
        """One token of a stream."""
        return {"index": index, "delta": {"content": piece}, "logprobs": None, "finish_reason": finish_reason}


class TextShape:
    """How answers of /v1/completions look."""

    prefix: Final = "cmpl"
    kind: Final = "text_completion"
    chunk_kind: Final = "text_completion"

    @staticmethod
    def build_choice(index: int, text: str, finish_reason: str | None) -> Json:
        """One whole answer, or one token of a stream."""
        return {"index": index, "text": text, "logprobs": None, "finish_reason": finish_reason}

    @staticmethod
    def build_first(index: int) -> Json | None:
        """A text stream begins with its first token."""
        del index
        return None

    build_delta = build_choice


Shape = type[ChatShape] | type[TextShape]
