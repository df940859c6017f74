"""`mlx_lm.cache_prompt`: computes a prompt once and saves what generate and chat need to go on from it.

With a chat template the prompt is the beginning of the first user message, left open: what is given to
`mlx_lm.generate --prompt-cache-file` follows it in the same message.
"""

import argparse
import time
from collections.abc import Sequence
from typing import Any

from ..errors import ContextLengthError
from . import options
from .app import main as run_main
from .app import say

__all__ = ["main"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mlx_lm.cache_prompt", description="Compute a prompt once and save it.")
    add = parser.add_argument
    options.add_model_options(parser, default="mlx_model")
    add("--prompt-cache-file", required=True, metavar="FILE", help="the .safetensors file to write")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--prompt", "-p", metavar="TEXT", help="the prompt, or '-' for stdin; \\n and \\t are unescaped"
    )
    source.add_argument("--prompt-file", metavar="FILE", help="read the prompt from a file")
    add("--raw-prompt", action="store_true", help="leave \\n and \\t in --prompt as they are")
    add("--system-prompt", metavar="TEXT", help="instructions that come before the prompt")
    options.add_template_options(parser)
    add("--eos-token", metavar="TOKEN", help="one more token that ends generation; checked to be in the vocabulary")
    options.add_kv_options(parser)
    return parser


def _run(args: argparse.Namespace) -> int:
    kv = options.kv_arguments(args)
    from .prompt import ChatFormat, read_prompt

    text = read_prompt(args.prompt or "", args.prompt_file, raw=args.raw_prompt)
    from .loading import load_model

    loaded = load_model(args.model, adapter_path=args.adapter_path, trust_remote_code=args.trust_remote_code)
    if args.eos_token is not None:
        loaded.tokenizer.add_eos_token(args.eos_token)
    chat = ChatFormat.choose(
        loaded.tokenizer,
        ignore=args.ignore_chat_template,
        use_default=args.use_default_chat_template,
        variables=args.chat_template_config,
    )
    for option in ("system_prompt", "chat_template_config"):
        chat.require(f"--{option.replace('_', '-')}", getattr(args, option))
    from . import saved_prompt

    prompt = saved_prompt.SavedPrompt(
        text=text,
        system=args.system_prompt,
        template=chat.template,
        variables=chat.variables,
        kv=kv,
        eos=args.eos_token,
    )
    prompt = saved_prompt.with_tokens(prompt, chat)
    start = time.perf_counter()
    states = _compute(loaded.model, prompt.tokens, kv, args.prefill_step_size)
    seconds = time.perf_counter() - start
    saved_prompt.save_prompt(args.prompt_cache_file, states, prompt, loaded, args.adapter_path)
    count, nbytes = len(prompt.tokens), sum(state.nbytes for state in states)
    say(
        f"{count:,} tokens in {seconds:.1f} s ({count / max(seconds, 1e-9):.1f} tokens/s), {nbytes / 1e6:.1f} MB "
        f"of states, saved to {args.prompt_cache_file}."
    )
    return 0


def _compute(model: Any, tokens: list[int], kv: dict[str, Any], step: int) -> list[Any]:
    """The states after `tokens`."""
    from ..engine import context_length, kv_options, new_states
    from .progress import prefill_progress
    from .turns import prefill

    limit = context_length(model)
    if limit is not None and len(tokens) > limit:
        raise ContextLengthError(len(tokens), limit)
    states = new_states(model, kv_options(**kv))
    prefill([model], [states], tokens, step=step, progress=prefill_progress())
    return states


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    return run_main(_parser(), _run, argv)
