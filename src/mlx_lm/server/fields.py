"""What happens to every field of a request body: honoured, refused by name, or ignored on purpose.

One `FieldTable` for each endpoint is the single source: it reads bodies, and the documentation and the OpenAPI document
are made from it. Names are paths: `stream_options.include_usage`, `tools[].function.strict`. `null` is as good as a
field that is not there. A field in no table is unknown: it is ignored and named in a reply header, as new versions of
the vendors' clients send new fields; with `strict` it is refused.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from .errors import HTTPError, validation_error

__all__ = ["IGNORED_HEADER", "Body", "FieldTable", "Rule", "honoured", "ignored", "ignored_header", "refused"]

# Names the unknown fields of a request, in the reply.
IGNORED_HEADER = "x-ignored-fields"


class Body(BaseModel):
    """Base of request bodies: JSON's types are not converted into one another, unknown fields are dropped."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False, protected_namespaces=())


M = TypeVar("M", bound=Body)


@dataclass(frozen=True)
class Rule:
    """The fate of one field. `neutral` values of a refused field ask for nothing, so they pass."""

    fate: Literal["honoured", "refused", "ignored"]
    note: str
    neutral: tuple[Any, ...] = ()


def honoured(note: str) -> Rule:
    """The field does what the vendor's documentation says; `note` tells the bounds or what is special here."""
    return Rule("honoured", note)


def refused(note: str, *neutral: Any) -> Rule:
    """A request with this field gets status 400, unless the value is null or one of `neutral`."""
    return Rule("refused", note, neutral)


def ignored(note: str) -> Rule:
    """The field is accepted and changes nothing; `note` is the reason why that is right."""
    return Rule("ignored", note)


@dataclass(frozen=True)
class FieldTable(Generic[M]):
    """An endpoint's body model and the rule of every field, by path."""

    method: str
    path: str
    summary: str
    model: type[M]
    rules: Mapping[str, Rule]

    def read(self, body: Mapping[str, Any], *, strict: bool = False) -> tuple[M, tuple[str, ...]]:
        """The body as its model, and the names of its unknown top-level fields.

        Raises:
            HTTPError: 400; `param` is the path of the field that is refused, unknown (with `strict`) or wrong.
        """
        for path, rule in self.rules.items():
            if rule.fate == "refused":
                for place, value in _values(body, path.split("."), ""):
                    if not any(_same(value, neutral) for neutral in rule.neutral):
                        raise HTTPError(
                            400, f"{place} is not supported: {rule.note}", param=place, code="unsupported_parameter"
                        )
        known = {path.split(".")[0].removesuffix("[]") for path in self.rules}
        unknown = tuple(name for name in body if name not in known)
        if strict and unknown:
            name = unknown[0][:80]
            raise HTTPError(400, f"Unrecognized request argument: {name}", param=name, code="unknown_parameter")
        try:
            given = {name: value for name, value in body.items() if value is not None}
            return self.model.model_validate(given), unknown
        except ValidationError as error:
            raise validation_error(error) from None
        except RecursionError:
            raise HTTPError(400, "The request body is nested too deeply.") from None


def ignored_header(unknown: tuple[str, ...]) -> dict[str, str]:
    """The reply header that names unknown fields: at most ten, printable ASCII."""
    names = ("".join(c for c in name[:40] if c.isascii() and c.isprintable() and c != ",") for name in unknown[:10])
    shown = [name.strip() or "?" for name in names]  # a header's value must not begin or end with white space
    return {IGNORED_HEADER: ", ".join(shown)} if shown else {}


def _values(value: Any, path: list[str], place: str) -> Iterator[tuple[str, Any]]:
    """Everything but null that `value` holds at `path`, with its printed place."""
    if value is None:
        return
    if not path:
        yield place, value
        return
    name = path[0].removesuffix("[]")
    if not isinstance(value, Mapping) or name not in value:
        return
    here, inner = f"{place}.{name}" if place else name, value[name]
    if not path[0].endswith("[]"):
        yield from _values(inner, path[1:], here)
    elif isinstance(inner, list):
        for index, item in enumerate(inner):
            yield from _values(item, path[1:], f"{here}[{index}]")


def _same(value: Any, neutral: Any) -> bool:
    return value == neutral and isinstance(value, bool) == isinstance(neutral, bool)
