"""The sandbox in which chat templates run: a Jinja environment with a budget.

Contract: `build_environment()` gives an ImmutableSandboxedEnvironment that renders what Hugging Face's renders
(trim_blocks, lstrip_blocks, `raise_exception`, `strftime_now`, `tojson` without HTML escapes, loop controls, the
`{% generation %}` tag), and that charges every loop turn, call, filter, literal and concatenation to the `Budget`
which is active (`with budget.active():`). A template therefore stops within about a second of its own CPU time and
never holds a value larger than the budget's cap, whatever it asks for. Jinja's sandbox closes the way to Python's
internals (CVE-2024-34359, CVE-2024-56326: jinja2 >= 3.1.6); the budget closes the resource bombs, which it leaves open.

This module does not know what a conversation is.
"""

from __future__ import annotations

import itertools
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, MappingView
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from functools import cache
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import TYPE_CHECKING, Any

from mlx_lm.errors import ChatTemplateError

if TYPE_CHECKING:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

__all__ = ["Budget", "build_environment"]

MAX_CHARS = 8_000_000  # one value, before the allowance for large inputs
MAX_WIDTH = 10_000  # padding, indentation, precision, number of columns
MAX_INT_BITS = 4_096
_STRFTIME = re.compile(r"(?:[^%]|%[-_0^#]?[A-Za-z%])*", re.DOTALL)
_WIDE_PERCENT = re.compile(r"%(\([^)]*\))?[-+ #0-9.]*(\d{5}|\*)")
_WIDE_BRACE = re.compile(r"\{[^{}]*:[^{}]*(\d{5}|\{)")


class Budget:
    """CPU time and value sizes that one rendering may use.

    `input_size` is the number of characters in the caller's data: large conversations earn a larger allowance.
    """

    def __init__(self, input_size: int = 0, seconds: float = 1.0) -> None:
        self.max_chars = MAX_CHARS + 8 * input_size
        self.seconds = seconds + input_size / 4_000_000
        self._deadline = time.thread_time() + self.seconds
        self._work = 0
        self._next_look = 256
        self._known: dict[int, tuple[Any, int]] = {}  # id -> (the object, kept alive, and its size)

    @contextmanager
    def active(self) -> Iterator[Budget]:
        token = _ACTIVE.set(self)
        try:
            yield self
        finally:
            _ACTIVE.reset(token)

    def tick(self, work: int = 1) -> None:
        """Charges `work` units; raises ChatTemplateError past the deadline."""
        self._work += work
        if self._work >= self._next_look:
            self._next_look = self._work + 256
            if time.thread_time() > self._deadline:
                raise ChatTemplateError(f"The chat template ran for more than {self.seconds:.1f} s and was stopped.")

    def allow(self, size: int) -> None:
        """Refuses a value of `size` characters before it is made."""
        if size > self.max_chars:
            raise ChatTemplateError(
                f"The chat template asked for a value of about {size:,} characters; the limit is {self.max_chars:,}."
            )
        self.tick(1 + size // 64)

    def measured(self, value: Any) -> Any:
        """The value itself, refused when its printed form would be larger than the cap."""
        self.allow(self.size(value))
        return value

    def size(self, value: Any) -> int:
        """About how many characters `value` prints as; shared parts count every time, as printing would."""
        if isinstance(value, str | bytes):
            return len(value)
        if isinstance(value, int):
            _bits(value.bit_length())
            return 8
        if isinstance(value, FunctionType | BuiltinFunctionType | MethodType):
            raise ChatTemplateError(
                "The chat template prints or stores a function; it must call it."
            )  # shows addresses
        if not isinstance(value, list | tuple | Mapping | MappingView):
            return 8
        known = self._known.get(id(value))
        if known is not None:
            return known[1]
        parts: Any = itertools.chain.from_iterable(value.items()) if isinstance(value, Mapping) else value
        total = 8
        for part in parts:
            total += 4 + self.size(part)
        self.tick(1 + len(value))
        self._known[id(value)] = (value, total)
        return total


_ACTIVE: ContextVar[Budget] = ContextVar("chat_template_budget")


class _CountedIterable:
    """An iterable whose every turn is charged; keeps `len`, so that `loop.length` costs nothing."""

    def __init__(self, values: Any, budget: Budget) -> None:
        self._values = values
        self._budget = budget

    def __iter__(self) -> Iterator[Any]:
        for value in self._values:
            self._budget.tick()
            yield value

    def __len__(self) -> int:
        return len(self._values)


def _bits(count: int) -> None:
    if count > MAX_INT_BITS:
        raise ChatTemplateError("The chat template made an integer of more than 4,096 bits.")


def _width(value: Any) -> None:
    if isinstance(value, int) and abs(value) > MAX_WIDTH:
        raise ChatTemplateError(f"The chat template asked for a width of {value:,}; the limit is {MAX_WIDTH:,}.")


def _check_format(budget: Budget, template: Any, marker: str, values: Any) -> None:
    """Refuses `%` and `str.format` templates that pad or repeat beyond the cap."""
    text = template.decode("latin-1") if isinstance(template, bytes) else str(template)
    if (_WIDE_PERCENT if marker == "%" else _WIDE_BRACE).search(text):
        raise ChatTemplateError("The chat template uses a format width that is too large or computed.")
    budget.allow(len(text) + text.count(marker) * budget.size(values))


def _check_replace(budget: Budget, text: Any, old: Any, new: Any) -> None:
    text, old, new = str(text), str(old), str(new)
    hits = text.count(old) if old else len(text) + 1
    budget.allow(len(text) + hits * len(new))


def _check_method(budget: Budget, method: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Looks at calls of built-in methods that can grow their input."""
    name, owner = method.__name__, method.__self__
    if name in ("translate", "maketrans", "to_bytes", "from_bytes", "fromhex"):
        raise ChatTemplateError(f"A chat template may not call {name}().")
    if name in ("center", "ljust", "rjust", "zfill", "expandtabs"):
        for value in (*args, *kwargs.values()):
            _width(value)
        if name == "expandtabs" and isinstance(owner, str):
            budget.allow(len(owner) + owner.count("\t") * int(next(iter((*args, *kwargs.values())), 8)))
    elif name == "replace" and len(args) >= 2:
        _check_replace(budget, owner, args[0], args[1])
    elif name == "join" and args:
        items = args[0] if isinstance(args[0], str | list | tuple) else ()
        budget.allow(len(owner) * len(items))
    elif name in ("format", "format_map"):
        _check_format(budget, owner, "{", (list(args), kwargs))


def _check_filter(budget: Budget, name: str, value: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Looks at filters that can grow their input."""
    extra = (*args, *kwargs.values())
    if name in ("center", "indent", "batch", "slice", "round", "tojson", "wordwrap"):
        for item in extra:
            _width(item)
    if name in ("wordwrap", "urlize", "striptags") and len(str(value)) > 20_000:
        raise ChatTemplateError(f"The filter {name} takes at most 20,000 characters: its time grows with the square.")
    if name == "indent":
        width = next((len(x) if isinstance(x, str) else int(x) for x in extra if isinstance(x, int | str)), 4)
        budget.allow((str(value).count("\n") + 1) * (width + 1))
    elif name == "replace" and len(extra) >= 2:
        _check_replace(budget, value, extra[0], extra[1])
    elif name == "join" and isinstance(value, list | tuple | str):
        budget.allow(len(value) * max([len(x) for x in extra if isinstance(x, str)], default=0))
    elif name == "format":
        _check_format(budget, value, "%", list(extra))
    elif name == "tojson":
        indent = next((x for x in extra if isinstance(x, int | str) and not isinstance(x, bool)), 0)
        unit = len(indent) if isinstance(indent, str) else indent
        budget.allow(budget.size(value) * (1 + unit))
    elif name == "sum" and isinstance(value, list | tuple) and extra and not isinstance(extra[-1], int | float | str):
        budget.allow(len(value) * budget.size(value))  # summing lists copies the head again and again


def _guarded_filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The filter with its input, growth and result charged to the active budget."""
    from jinja2 import pass_context

    wants = getattr(getattr(function, "jinja_pass_arg", None), "name", None)

    # pass_context also keeps the compiler from folding constants with it, where no budget is active
    @pass_context
    def guarded(context: Any, value: Any = None, *args: Any, **kwargs: Any) -> Any:
        budget = _ACTIVE.get()
        budget.measured(value)
        _check_filter(budget, name, value, args, kwargs)
        lead = {"context": (context,), "eval_context": (context.eval_ctx,), "environment": (context.environment,)}
        if not isinstance(value, str | list | tuple | Mapping) and hasattr(value, "__next__"):
            value = iter(_CountedIterable(value, budget))
        return budget.measured(function(*lead.get(wants or "", ()), value, *args, **kwargs))

    return guarded


def _checked_binop(budget: Budget, operator: str, left: Any, right: Any) -> None:
    if operator == "%" and isinstance(left, str | bytes):
        _check_format(budget, left, "%", right if isinstance(right, tuple | dict) else [right])
    elif operator == "+" and isinstance(left, str | bytes | list | tuple):
        budget.allow(budget.size(left) + budget.size(right))
    elif operator == "*":
        for sequence, count in ((left, right), (right, left)):
            if isinstance(sequence, str | bytes | list | tuple) and isinstance(count, int):
                budget.allow(budget.size(sequence) * max(count, 0))
        if isinstance(left, int) and isinstance(right, int):
            _bits(left.bit_length() + right.bit_length())
    elif operator == "**" and isinstance(left, int) and isinstance(right, int):
        _bits(left.bit_length() * max(right, 0))


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=tuple(separators) if separators else None,
        sort_keys=sort_keys,
    )


def _raise_exception(message: object = "") -> None:
    raise ChatTemplateError(str(message))


def _strftime_now(pattern: str) -> str:
    if not isinstance(pattern, str) or len(pattern) > 256 or not _STRFTIME.fullmatch(pattern):
        raise ChatTemplateError("strftime_now takes a plain strftime pattern of at most 256 characters.")
    return datetime.now().strftime(pattern)


@cache
def _environment_class() -> type[ImmutableSandboxedEnvironment]:
    """Defined on first use, because importing jinja2 takes 40 ms."""
    from jinja2 import nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.runtime import LoopContext
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from jinja2.utils import Namespace
    from jinja2.visitor import NodeTransformer

    class TemplateNamespace(Namespace):
        """Prints as a constant: a namespace can hold itself many times over."""

        def __repr__(self) -> str:
            return "<Namespace>"

    class GenerationTag(Extension):
        """`{% generation %}` marks the assistant's own text for training; rendering passes it through."""

        tags = {"generation"}  # noqa: RUF012  (the name and the type are Jinja's)

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body, lineno=line)

    class Charger(NodeTransformer):
        """Wraps what the environment has no hook for (loops, literals, `~`) in filters that charge the budget."""

        def _wrap(self, node: Any, name: str) -> Any:
            return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)

        def visit_For(self, node: Any, *args: Any, **kwargs: Any) -> Any:
            node = self.generic_visit(node, *args, **kwargs)
            node.iter = self._wrap(node.iter, "_charged_loop")
            return node

        def visit_List(self, node: Any, *args: Any, **kwargs: Any) -> Any:
            node = self.generic_visit(node, *args, **kwargs)
            return self._wrap(node, "_charged") if node.items else node

        visit_Dict = visit_List

        def visit_Tuple(self, node: Any, *args: Any, **kwargs: Any) -> Any:
            node = self.generic_visit(node, *args, **kwargs)
            return self._wrap(node, "_charged") if node.items and node.ctx == "load" else node

        def visit_Concat(self, node: Any, *args: Any, **kwargs: Any) -> Any:
            node = self.generic_visit(node, *args, **kwargs)
            return self._wrap(nodes.List(node.nodes, lineno=node.lineno), "_concatenated")

    class ChatEnvironment(ImmutableSandboxedEnvironment):
        intercepted_binops = frozenset({"+", "*", "**", "%"})

        def __init__(self) -> None:
            super().__init__(
                trim_blocks=True,
                lstrip_blocks=True,
                extensions=[GenerationTag, loopcontrols],
                finalize=self._finalized,
                optimized=False,
            )
            self.filters["tojson"] = _tojson
            for name, function in list(self.filters.items()):
                self.filters[name] = _guarded_filter(name, function)
            self.filters["_charged"] = _guarded_filter("", lambda value: value)
            self.filters["_charged_loop"] = _loop_filter
            self.filters["_concatenated"] = _guarded_filter("", lambda values: "".join(map(str, values)))
            del self.globals["lipsum"]
            self.globals["dict"] = lambda *args, **kwargs: dict(*args, **kwargs)  # the type has mutating methods
            self.globals["namespace"] = TemplateNamespace
            self.globals["raise_exception"] = _raise_exception
            self.globals["strftime_now"] = _strftime_now

        def _parse(self, source: str, name: str | None, filename: str | None) -> Any:
            return Charger().visit(super()._parse(source, name, filename))

        def _finalized(self, value: Any) -> Any:
            budget = _ACTIVE.get(None)  # none while constants are folded
            return value if budget is None else budget.measured(value)

        def concat(self, parts: Any) -> str:  # type: ignore[override]
            budget = _ACTIVE.get()
            total = 0
            kept = []
            for part in parts:
                total += len(part)
                budget.allow(total) if total > budget.max_chars else budget.tick()
                kept.append(part)
            return "".join(kept)

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            budget = _ACTIVE.get()
            budget.tick()
            _checked_binop(budget, operator, left, right)
            return budget.measured(super().call_binop(context, operator, left, right))

        def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
            budget = _ACTIVE.get()
            budget.tick(4)
            owner = getattr(__obj, "__self__", None)
            if isinstance(owner, str | bytes | int | float):
                _check_method(budget, __obj, args, kwargs)
            elif callable(__obj) and getattr(__obj, "__name__", "") in ("format", "format_map"):
                template = getattr(getattr(__obj, "__wrapped__", None), "__self__", "")
                _check_format(budget, template, "{", (list(args), kwargs))
            if isinstance(__obj, LoopContext) and args:  # a recursive loop goes one level down
                args = (_CountedIterable(args[0], budget), *args[1:])
            return budget.measured(super().call(__context, __obj, *args, **kwargs))

    return ChatEnvironment


def _loop_filter(values: Any) -> Any:
    return _CountedIterable(values, _ACTIVE.get())


def build_environment() -> ImmutableSandboxedEnvironment:
    """A fresh sandboxed environment for chat templates."""
    return _environment_class()()  # type: ignore[call-arg]
