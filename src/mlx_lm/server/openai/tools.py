"""Tools, tool choices and response formats of OpenAI's forms -> the server's own.

Chat completions nest a function under `function`, responses do not; both end here.
"""

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from ..errors import HTTPError
from ..fields import Body
from ..work import OutputFormat, Tool, ToolChoice

__all__ = ["Function", "JsonSchemaFormat", "check_tools", "format_of", "tool_choice_of", "tool_of"]

_ANY_OBJECT = {"type": "object", "properties": {}}


class Function(Body):
    """A function that the model may call."""

    name: str = Field(min_length=1, max_length=256)
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class JsonSchemaFormat(Body):
    """A named JSON schema for the answer."""

    name: str | None = Field(None, max_length=256)
    description: str | None = None
    json_schema: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None


def tool_of(function: Function) -> Tool:
    """The server's form of a function."""
    parameters = function.parameters or _ANY_OBJECT
    return Tool(function.name, function.description, parameters, bool(function.strict))


def check_tools(tools: Sequence[Tool]) -> tuple[Tool, ...]:
    """The tools; HTTPError when two have one name."""
    seen: set[str] = set()
    for index, tool in enumerate(tools):
        if tool.name in seen:
            raise HTTPError(400, f"tools[{index}]: the name {tool.name!r} is taken already.", param=f"tools[{index}]")
        seen.add(tool.name)
    return tuple(tools)


def tool_choice_of(choice: Any, tools: Sequence[Tool], parallel: bool | None) -> ToolChoice:
    """`none`, `auto`, `required`, or a function by name in either of OpenAI's forms.

    Raises:
        HTTPError: another form; a function that is not among `tools`; `required` without tools.
    """
    together = parallel is not False
    if choice is None or choice in ("auto", "none"):
        return ToolChoice(choice or "auto", parallel=together)
    if choice == "required":
        if not tools:
            raise HTTPError(400, "tool_choice is 'required' but there are no tools.", param="tool_choice")
        return ToolChoice("required", parallel=together)
    if not isinstance(choice, dict) or choice.get("type") != "function":
        kind = choice.get("type") if isinstance(choice, dict) else choice
        raise HTTPError(
            400,
            f"tool_choice {str(kind)[:40]!r} is not supported: use none, auto, required or a function.",
            param="tool_choice",
            code="unsupported_value",
        )
    function = choice.get("function", choice)
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str) or name not in {tool.name for tool in tools}:
        raise HTTPError(400, f"tool_choice names {str(name)[:80]!r}, which is not a tool.", param="tool_choice")
    return ToolChoice("named", name, together)


def format_of(
    kind: Literal["text", "json_object", "json_schema"], schema: JsonSchemaFormat | None, place: str
) -> OutputFormat:
    """The answer's format; `place` is the field's path, for errors."""
    if kind != "json_schema":
        return OutputFormat(kind)
    if schema is None or schema.json_schema is None:
        raise HTTPError(400, f"{place}: a format of type json_schema needs a schema.", param=place)
    return OutputFormat("json_schema", schema.json_schema, bool(schema.strict))
