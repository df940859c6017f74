"""The formats whose calls are tags.

Facts come from:
- json_tools (Hermes, Qwen 2.5, Qwen 3, Granite 4, SmolLM2): `<tool_call>` JSON `</tool_call>`. Templates: Qwen 2.5, 3.
  Qwen 2.5 Coder often leaves the markers out, or writes a fence of Markdown instead: bug reports.
- qwen3_coder: `<tool_call><function=f><parameter=a>..</parameter></function></tool_call>`; also of Nemotron 3 and of
  seed_oss in `<seed:tool_call>`. Templates: Qwen 3.5, 3.6, 3.8, Nemotron 3, Seed-OSS.
- minimax_m2: `<minimax:tool_call><invoke name="f"><parameter name="a">..`. Template: MiniMax M2.
- deepseek_v32: `<｜DSML｜function_calls><｜DSML｜invoke name="f"><｜DSML｜parameter name="a" string="true">..`.
  Template: DeepSeek V3.2. V4 (`<｜DSML｜tool_calls>`): from knowledge.
- minicpm5: `<function name="f"><param name="a">..</param></function>` without markers around; CDATA. Bug reports of
  several projects that quote the template.
- kimi_k3 (XTML): `<|open|>call tool="f" index="1"<|sep|><|open|>argument key="a" type="string"<|sep|>..`. Template.
- glm47, laguna: `<tool_call>f<arg_key>a</arg_key><arg_value>..</arg_value></tool_call>`. Template: GLM 4.5; GLM 4.7 and
  5 leave the line breaks out. laguna: from knowledge.
- longcat: the same with `longcat_` before every tag, or JSON. Public descriptions and transcripts.
- muse_spark's `ATEM` tags: template of Muse Glimmer; its messages are read by `channels`.
"""  # noqa: RUF002

from __future__ import annotations

from collections.abc import Callable

from mlx_lm.tokenizer.parsers.json_calls import json_calls, read_closing, read_json_tag
from mlx_lm.tokenizer.parsers.session import Session, ToolFormat
from mlx_lm.tokenizer.parsers.source import Malformed, Markers, Reading
from mlx_lm.tokenizer.parsers.tag_calls import MAX_HEAD, NAME, Arguments, Tags, read_call, read_tags

__all__ = ["ATEM", "FORMATS"]


def _read_keys(session: Session, prefix: str, end: str) -> Reading[None]:
    source = session.source
    key, key_end, value, value_end = (
        f"<{slash}{prefix}arg_{part}>" for part in ("key", "value") for slash in ("", "/")
    )
    markers = Markers((key, end))
    name, found = yield from source.text_until(markers, MAX_HEAD)
    name = name.strip()
    if not NAME.fullmatch(name):
        raise Malformed("not a name")
    session.start_call(name)
    arguments = Arguments(session, name)
    while found != end:
        argument, _ = yield from source.text_until(Markers((key_end,)), MAX_HEAD)
        yield from source.skip_space()
        yield from source.expect(value)
        writer = arguments.begin(argument.strip())
        if (yield from source.until(Markers((value_end,)), writer.add)) is None:
            raise Malformed("an argument without end")
        writer.end()
        yield from source.skip_space()
        found = end if (yield from source.accept_end(end, key)) else key
        if found == key:
            yield from source.expect(key)
    arguments.end()


def _tags(tags: Tags) -> Callable[[Session, str], Reading[None]]:
    return lambda session, found: read_tags(session, tags)


def _qwen_tags(end: str, lines: bool) -> Tags:
    return Tags("<function", "</function>", "<parameter", "</parameter>", end, lines=lines)


_QWEN = _qwen_tags("</tool_call>", True)
_DSML = "｜DSML｜"  # noqa: RUF001
_MINICPM = Tags("<function", "</function>", "<param", "</param>", xml=True)
_XTML = Tags(
    "<|open|>call",
    "<|close|>call<|sep|>",
    "<|open|>argument",
    "<|close|>argument<|sep|>",
    "<|close|>tools<|sep|>",
    "<|sep|>",
    object="<|open|>json",
    object_end="<|close|>json<|sep|>",
)


def _tool_call(session: Session, found: str) -> Reading[None]:
    """`<tool_call>` with JSON or Qwen's tags in it: models trained on one write the other now and then."""
    yield from session.source.skip_space()
    if (yield from session.source.comes("{", "[")):
        yield from read_json_tag(session, "</tool_call>")
    else:
        yield from read_tags(session, _QWEN)


def _json_bare(session: Session) -> Reading[None]:
    """JSON calls of offered tools where the markers were left out, with or without a fence."""
    source = session.source
    if not session.schemas.known:
        raise Malformed("the tools are not known")
    end = ""
    for fence, fence_end in (("```json\n", "```"), ("<tools>", "</tools>")):
        if (yield from source.accept(fence)):
            end = fence_end
    yield from source.skip_space()
    if not (yield from source.comes("{", "[")):
        raise Malformed("no JSON")
    yield from json_calls(session, bare=True)
    yield from read_closing(session, end)


def _glm(session: Session, found: str) -> Reading[None]:
    yield from session.source.skip_space()
    if (yield from session.source.comes("{", "[", "<function")):
        yield from _tool_call(session, found)
    else:
        yield from _read_keys(session, "", "</tool_call>")


def _longcat(session: Session, found: str) -> Reading[None]:
    yield from session.source.skip_space()
    if (yield from session.source.comes("{", "[")):
        yield from read_json_tag(session, "</longcat_tool_call>")
    else:
        yield from _read_keys(session, "longcat_", "</longcat_tool_call>")


def _dsml(session: Session, found: str) -> Reading[None]:
    kind = found.removeprefix(f"<{_DSML}").removesuffix(">")
    names = (f"<{_DSML}invoke", f"</{_DSML}invoke>", f"<{_DSML}parameter", f"</{_DSML}parameter>")
    yield from read_tags(session, Tags(*names, end=f"</{_DSML}{kind}>"))


def _minicpm(session: Session, found: str) -> Reading[None]:
    yield from read_call(session, _MINICPM, "name=")


ATEM = Tags("<atem:invoke", "</atem:invoke>", "<atem:parameter", "</atem:parameter>", "</atem:function_calls>")
_MINIMAX = Tags("<invoke", "</invoke>", "<parameter", "</parameter>", "</minimax:tool_call>")
_DSML_START, _DSML_END = f"<{_DSML}function_calls>", f"</{_DSML}function_calls>"
_XTML_IGNORED = ("<|open|>response<|sep|>", "<|close|>response<|sep|>", "<|close|>message<|sep|>", "<|end_of_msg|>")

FORMATS: tuple[ToolFormat, ...] = (
    ToolFormat("json_tools", "<tool_call>", "</tool_call>", _tool_call, bare=_json_bare),
    ToolFormat("qwen3_coder", "<tool_call>", "</tool_call>", _tool_call),
    ToolFormat("glm47", "<tool_call>", "</tool_call>", _glm),
    ToolFormat("laguna", "<tool_call>", "</tool_call>", _glm),
    ToolFormat("longcat", "<longcat_tool_call>", "</longcat_tool_call>", _longcat),
    ToolFormat("seed_oss", "<seed:tool_call>", "</seed:tool_call>", _tags(_qwen_tags("</seed:tool_call>", True))),
    ToolFormat("minimax_m2", "<minimax:tool_call>", "</minimax:tool_call>", _tags(_MINIMAX)),
    ToolFormat("minicpm5", "<function name=", "</function>", _minicpm),
    ToolFormat(
        "deepseek_v32", _DSML_START, _DSML_END, _dsml, (_DSML_START, f"<{_DSML}tool_calls>"), ends_reasoning=True
    ),
    ToolFormat(
        "kimi_k3",
        "<|open|>tools<|sep|>",
        "<|close|>tools<|sep|>",
        _tags(_XTML),
        ignored=_XTML_IGNORED,
        ends_reasoning=True,
    ),
)
