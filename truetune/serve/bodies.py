"""What a request may hold, field by field, with its limits: OpenAI's fields and vLLM's, every optional one nullable.

A field that stands here is obeyed, or it is about the caller and changes no answer (`user`, `metadata`). Any other
field, and any value that asks for what this server does not do, is refused: nothing is silently left out.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

MESSAGES = 2048
TEXT = 2**20
"""Characters of a text."""
PROMPTS = 128
"""Prompts of one request."""
INPUTS = 2048
"""Texts of one request for embeddings."""
CHOICES = 16
STOPS = 16
LOGPROBS = 20
BIASES = 300
IDS = 2**17
"""Token ids of a prompt."""

Text = Annotated[str, Field(max_length=TEXT)]
Name = Annotated[str, Field(min_length=1, max_length=256)]
Stop = Annotated[str, Field(min_length=1, max_length=256)]
TokenId = Annotated[int, Field(ge=0, lt=2**31)]
Ids = Annotated[list[TokenId], Field(min_length=1, max_length=IDS)]
Absent = Annotated[list[Any], Field(max_length=0)]
"""A list that clients send empty."""


class Body(BaseModel):
    """Types are taken as they stand (`"1"` is no number), and unknown fields are refused."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class TextPart(Body):
    type: Literal["text"]
    text: Text


class Message(Body):
    """One message; clients send the empty fields of an answer back with it."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Text | Annotated[list[TextPart], Field(max_length=MESSAGES)]
    name: Annotated[str, Field(max_length=256)] | None = None
    tool_calls: Absent | None = None
    annotations: Absent | None = None
    function_call: None = None
    refusal: None = None
    audio: None = None
    reasoning_content: None = None

    @property
    def text(self) -> str:
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class StreamOptions(Body):
    include_usage: bool | None = None
    """A last chunk says how many tokens there were."""
    continuous_usage_stats: Literal[False] | None = None


class JsonSchema(Body):
    name: Annotated[str, Field(max_length=256)] | None = None
    description: Text | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None
    """The answer follows the schema either way."""


class TextFormat(Body):
    type: Literal["text"]


class ObjectFormat(Body):
    type: Literal["json_object"]
    value: dict[str, Any] | None = None
    """A JSON schema: so the Hugging Face hub's client writes what others call `json_schema`."""


class SchemaFormat(Body):
    type: Literal["json_schema"]
    json_schema: JsonSchema


Format = Annotated[TextFormat | ObjectFormat | SchemaFormat, Field(discriminator="type")]


class Drawing(Body):
    """How answers are drawn, and when they end. What is null is as the model's own settings say."""

    model: Name
    """One of `/v1/models`."""
    temperature: float | None = Field(None, ge=0, le=5)
    """0 = always the likeliest token."""
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1, lt=2**31)
    """0 or -1 = all tokens."""
    min_p: float | None = Field(None, ge=0, le=1)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    """The same seed gives the same answer, whatever else is asked at the time."""
    max_tokens: int | None = Field(None, ge=0, lt=2**31)
    min_tokens: int | None = Field(None, ge=0, lt=2**31)
    n: int | None = Field(None, ge=1, le=CHOICES)
    stop: Stop | Annotated[list[Stop], Field(max_length=STOPS)] | None = None
    """Texts at which an answer ends; they are not part of it."""
    stop_token_ids: Annotated[list[TokenId], Field(max_length=STOPS)] | None = None
    ignore_eos: bool | None = None
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    repetition_penalty: float | None = Field(None, ge=0.1, le=10)
    logit_bias: Annotated[dict[str, Annotated[float, Field(ge=-100, le=100)]], Field(max_length=BIASES)] | None = None
    """Token id -> what is added to its logit."""
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    response_format: Format | None = None
    user: Text | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


class ChatBody(Drawing):
    """`POST /v1/chat/completions`"""

    messages: Annotated[list[Message], Field(min_length=1, max_length=MESSAGES)]
    max_completion_tokens: int | None = Field(None, ge=1, lt=2**31)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=LOGPROBS)
    tools: Absent | None = None
    functions: Absent | None = None
    tool_choice: Literal["none", "auto"] | None = None
    function_call: Literal["none"] | None = None
    parallel_tool_calls: bool | None = None
    modalities: list[Literal["text"]] | None = None
    metadata: dict[str, Any] | None = None
    store: Literal[False] | None = None
    service_tier: Annotated[str, Field(max_length=64)] | None = None
    safety_identifier: Text | None = None
    prompt_cache_key: Text | None = None


class CompletionBody(Drawing):
    """`POST /v1/completions`"""

    prompt: (
        Text
        | Annotated[list[Text], Field(min_length=1, max_length=PROMPTS)]
        | Ids
        | Annotated[list[Ids], Field(min_length=1, max_length=PROMPTS)]
    )
    """A text, token ids, or a list of either."""
    echo: bool | None = None
    """The prompt stands before each answer, with its log-probabilities where those are asked for."""
    logprobs: int | None = Field(None, ge=0, le=LOGPROBS)
    best_of: Literal[1] | None = None
    suffix: None = None
    add_special_tokens: bool | None = None
    """Whether a prompt that is a text begins with the model's own first token; null = yes."""

    @property
    def prompts(self) -> list[str | list[int]]:
        """Each prompt, in order."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], int):
            return [self.prompt]
        return list(self.prompt)


class GenerateBody(Body):
    """`POST /api/inference/generate`"""

    model: Name
    prompt: Text | None = None
    """One question; or `messages`."""
    messages: Annotated[list[Message], Field(min_length=1, max_length=MESSAGES)] | None = None
    temperature: float | None = Field(None, ge=0, le=5)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=0, lt=2**31)
    max_new_tokens: int | None = Field(None, ge=1, lt=2**31)
    seed: int | None = Field(None, ge=0, lt=2**63)


class ClassifyBody(Body):
    """`POST /v1/classify`"""

    model: Name
    input: Text | Annotated[list[Text], Field(min_length=1, max_length=PROMPTS)]


class TokenizeBody(Body):
    """`POST /tokenize`: of a text, or of a conversation as it is served."""

    model: Name
    prompt: Text | None = None
    messages: Annotated[list[Message], Field(min_length=1, max_length=MESSAGES)] | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: Literal[True] | None = None


class LoadBody(Body):
    """`POST /v1/load_lora_adapter`"""

    lora_name: Annotated[str, Field(max_length=256)] | None = None
    lora_path: Annotated[str, Field(max_length=4096)] | None = None
    """A registered adapter (`support@3`), a run, or a folder below one that the server allows."""
    load_inplace: bool | None = None
    """Whether a name that is taken is pointed to this adapter."""
    is_3d_lora_weight: Literal[False] | None = None
    base_model_name: None = None


class UnloadBody(Body):
    """`POST /v1/unload_lora_adapter`"""

    lora_name: Annotated[str, Field(max_length=256)] | None = None
    lora_int_id: None = None


class EmbeddingsBody(Body):
    """`POST /v1/embeddings`"""

    model: Name
    input: (
        Text
        | Annotated[list[Text], Field(min_length=1, max_length=INPUTS)]
        | Ids
        | Annotated[list[Ids], Field(min_length=1, max_length=INPUTS)]
    )
    """A text, token ids as they stand, or a list of either."""
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = Field(None, ge=1, lt=2**31)
    """Only how many numbers the model's embeddings have anyway."""
    user: Text | None = None

    @property
    def inputs(self) -> list[str | list[int]]:
        """Each text, in order."""
        if isinstance(self.input, str):
            return [self.input]
        if isinstance(self.input[0], int):
            return [self.input]
        return list(self.input)
