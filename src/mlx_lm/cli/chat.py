"""`mlx_lm.chat`: a conversation in the terminal, or over lines on stdin.

Answers go to stdout, everything else to stderr. Ctrl-C stops an answer and keeps the conversation; a second one
before the model has reacted stops the command.
"""

import argparse
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

from ..errors import MLXLMError, RequestError
from . import options
from .app import main as run_main
from .app import say

__all__ = ["main"]

_REFUSED = {"pipeline": "models that are spread over several machines can't be run yet."}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mlx_lm.chat", description="Talk with a model in the terminal.")
    add = parser.add_argument
    options.add_model_options(parser)
    add("--system-prompt", metavar="TEXT", help="instructions for the whole conversation")
    add("--chat-template-config", type=options.json_object, metavar="JSON", help="variables for the chat template")
    add("--max-tokens", "-m", type=options.token_limit, default=-1, metavar="N", help="for each answer; -1: no limit")
    add("--prompt-cache-file", metavar="FILE", help="begin with a prompt saved by mlx_lm.cache_prompt")
    add("--verbose", type=options.boolean, default=False, metavar="BOOL", help="show counts and speeds")
    options.add_output_options(parser)
    options.add_sampling_options(parser, seed=0)
    options.add_kv_options(parser)
    options.add_draft_options(parser)
    add("--pipeline", action="store_true", help=argparse.SUPPRESS)
    return parser


def _run(args: argparse.Namespace) -> int:
    options.refuse(args, _REFUSED)
    options.draft_conflicts(args)
    kv = options.kv_arguments(args)
    kind = options.output_type(args)
    if args.prompt_cache_file is not None:
        for name in ("system_prompt", "chat_template_config", "draft_model"):
            if getattr(args, name):
                option = f"--{name.replace('_', '-')}"
                raise RequestError(f"{option} cannot be combined with --prompt-cache-file.")
    conversation, name = _begin(args, kv, kind)
    from .chat_input import Reader

    say(f"{name}. /help shows the commands, /quit leaves.")
    reader = Reader()
    while True:
        try:
            line = reader.read()
        except (EOFError, KeyboardInterrupt):
            say("")
            return 0
        if line.strip() and not _handle(conversation, line, args):
            return 0


def _begin(args: argparse.Namespace, kv: dict[str, Any], kind: Any) -> tuple[Any, str]:
    """The conversation that the options ask for, and the model's name."""
    from . import saved_prompt
    from .conversation import Conversation
    from .loading import load_draft, load_model
    from .prompt import ChatFormat
    from .turns import Turns

    name, states, begun, metadata = args.model, None, None, {}
    if args.prompt_cache_file is not None:
        states, metadata = saved_prompt.load_saved_prompt(args.prompt_cache_file)
        name = saved_prompt.read_model_name(metadata, args.prompt_cache_file, args.model)
        begun = saved_prompt.read_prompt_entry(metadata, args.prompt_cache_file)
        if begun.template is None:
            raise RequestError("Only a prompt that mlx_lm.cache_prompt saved with a chat template can begin a chat.")
        given = {k: getattr(args, k) for k in ("kv_bits", "kv_group_size", "quantized_kv_start", "max_kv_size")}
        saved_prompt.check_kv(begun, args.prompt_cache_file, given)
        kv = {name: begun.kv.get(name, value) if given[name] is None else value for name, value in kv.items()}
    loaded = load_model(name, adapter_path=args.adapter_path, trust_remote_code=args.trust_remote_code)
    draft = load_draft(args.draft_model, trust_remote_code=args.trust_remote_code)
    models = [loaded.model] if draft is None else [loaded.model, draft]
    from ..engine import kv_options, new_states

    def make() -> list[list[Any]]:
        return [new_states(model, kv_options(**kv)) for model in models]

    if states is None or begun is None or args.prompt_cache_file is None:
        turns = Turns(make)
        chat = ChatFormat.choose(loaded.tokenizer, use_default=True, variables=args.chat_template_config)
        if chat.template == "plain":
            say("This model has no chat template: 'User:' and 'Assistant:' stand before the messages.")
    else:
        saved_prompt.check_made_for(metadata, args.prompt_cache_file, loaded, args.adapter_path)
        if begun.eos is not None:
            loaded.tokenizer.add_eos_token(begun.eos)
        turns = Turns.saved(states, begun.tokens, make)
        chat = ChatFormat.of(loaded.tokenizer, begun.template, begun.variables)
    settings = {
        "max_tokens": args.max_tokens,
        "prefill_step_size": args.prefill_step_size,
        **options.speculation_arguments(args),
        **kv,
    }
    chosen = options.sampling(args, loaded.tokenizer)

    def constrain(prompt: Sequence[int]) -> Any:
        return options.answer_constraint(args, kind, loaded.tokenizer, prompt)

    conversation = Conversation(
        models, chat, chosen, settings, turns, system=args.system_prompt, begun=begun, constrain=constrain
    )
    return conversation, loaded.name


def _handle(conversation: Any, line: str, args: argparse.Namespace) -> bool:
    """Does what a line says; False to leave. Errors end the turn, not the conversation."""
    from .chat_input import Command, parse

    parsed = parse(line)
    if isinstance(parsed, Command) and parsed.name == "quit":
        return False
    try:
        if isinstance(parsed, Command):
            _command(conversation, parsed, args)
        else:
            conversation.add_user(parsed)
            _answer(conversation, args)
    except MLXLMError as error:
        say(f"mlx_lm.chat: {error}")
    return True


def _command(conversation: Any, command: Any, args: argparse.Namespace) -> None:
    from .chat_input import COMMANDS, HELP

    name, argument = command.name, command.argument
    if name in ("save", "load") and not argument:
        raise RequestError(f"/{name} needs the name of a file.")
    match name:
        case "help":
            say(HELP)
        case "reset":
            conversation.reset()
            say("The conversation is forgotten.")
        case "system":
            conversation.system = argument or None
            say("The system prompt is set." if argument else "The system prompt is removed.")
        case "undo":
            say("There is nothing to take back." if conversation.undo() is None else "Taken back.")
        case "retry":
            text = conversation.undo()
            if text is None:
                raise RequestError("There is no message to answer again.")
            conversation.add_user(text)
            _answer(conversation, args)
        case "save":
            conversation.save(argument)
            say(f"Saved to {argument}.")
        case "load":
            conversation.load(argument)
            say(f"Loaded {len(conversation.messages)} messages.")
        case _:
            known = ", ".join(f"/{c}" for c in COMMANDS)
            raise RequestError(f"/{name} is no command; there are {known}. //{name} sends it as a message.")


def _answer(conversation: Any, args: argparse.Namespace) -> None:
    """Prints the answer to the last message as it comes."""
    from .progress import prefill_progress

    try:
        with _interrupts() as stopped:
            answer = conversation.answer(
                lambda text: print(text, end="", flush=True), stopped=stopped, progress=prefill_progress()
            )
    except BaseException:
        conversation.undo()
        raise
    if answer.last is None:
        conversation.undo()
        say("Stopped before the answer began; the message is taken back.")
        return
    print(flush=True)
    if answer.interrupted:
        say("[stopped]")
    elif answer.last.finish_reason == "length":
        say(_what_stopped(args, answer))
    if args.verbose:
        last = answer.last
        say(
            f"Prompt: {answer.prompt_tokens:,} tokens, {answer.reused:,} of them reused, "
            f"{last.prompt_tps:.1f} tokens/s; generation: {last.generation_tokens:,} tokens, "
            f"{last.generation_tps:.1f} tokens/s; peak memory: {last.peak_memory:.3f} GB"
        )


def _what_stopped(args: argparse.Namespace, answer: Any) -> str:
    if args.max_tokens == answer.last.generation_tokens:
        return f"Stopped by --max-tokens {args.max_tokens}; a larger number goes on, -1 lifts the limit."
    return "Stopped at the end of the model's context; /undo and /reset make room."


@contextmanager
def _interrupts() -> Iterator[Any]:
    """Gives a function that says whether Ctrl-C was pressed in this block; pressed again, it is KeyboardInterrupt."""
    pressed = 0

    def handler(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        pressed += 1
        if pressed > 1:
            raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGINT, handler)
    except ValueError:  # not the main thread: Ctrl-C never comes here
        yield lambda: False
        return
    try:
        yield lambda: pressed > 0
    finally:
        signal.signal(signal.SIGINT, before)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    return run_main(_parser(), _run, argv)
