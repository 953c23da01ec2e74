"""Messages and tools as OpenAI writes them in bodies."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

MAX_MESSAGES = 4096
MAX_TOOLS = 128


class ContentPart(BaseModel):
    """One part of a message; only text is understood."""

    model_config = ConfigDict(extra="ignore")

    type: str
    text: str | None = None


class FunctionCall(BaseModel):
    """What the assistant called."""

    name: str
    arguments: str = "{}"
    """JSON."""


class ToolCall(BaseModel):
    """A call in a message of the assistant."""

    model_config = ConfigDict(extra="ignore")

    id: str | None = None
    type: Literal["function"] = "function"
    function: FunctionCall


class Function(BaseModel):
    """What the assistant may call. What it has besides goes to the chat template as it is."""

    model_config = ConfigDict(extra="allow")

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    """A JSON schema."""
    strict: bool | None = None
    """Promises that arguments fit the schema."""


class Tool(BaseModel):
    """One tool; functions are the only kind."""

    model_config = ConfigDict(extra="allow")

    type: Literal["function"] = "function"
    function: Function


class NamedFunction(BaseModel):
    """The function that must be called."""

    name: str


class NamedToolChoice(BaseModel):
    """A tool that must be called."""

    type: Literal["function"] = "function"
    function: NamedFunction


class Message(BaseModel):
    """One message of a conversation."""

    model_config = ConfigDict(extra="ignore")

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[ContentPart] | None = None
    name: str | None = None
    tool_call_id: str | None = None
    tool_calls: Annotated[list[ToolCall], Field(max_length=MAX_TOOLS)] | None = None
