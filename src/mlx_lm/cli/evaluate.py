"""`mlx_lm.evaluate`: runs tasks of the lm-eval harness on a model, in this process.

Contract: the table of results goes to stdout (one JSON object with --json); the results are also written to
OUTPUT_DIR/eval_MODEL_VERSION[_SHOTS]_TASKS. Messages go to stderr.
"""

import argparse
import importlib.util
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import RequestError, UnsupportedError
from . import options
from .app import main as run_main
from .app import say

__all__ = ["main"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mlx_lm.evaluate", description="Evaluate a model on tasks of the lm-eval harness."
    )
    add = parser.add_argument
    options.add_model_options(parser, required=True)
    add("--tasks", nargs="+", required=True, metavar="TASK", help="tasks, groups or patterns of them")
    add("--include-path", metavar="DIR", help="folder with further tasks (YAML)")
    add("--output-dir", default=".", metavar="DIR", help="where the results are written (default: .)")
    add("--batch-size", type=options.positive, default=8, metavar="N", help="texts computed together (default: 8)")
    add("--num-shots", type=int, metavar="N", help="examples before each question (default: the task's)")
    add(
        "--max-tokens",
        type=options.token_limit,
        metavar="N",
        help="tokens of an answer, -1 for no limit (default: the task's, else 8192)",
    )
    add("--limit", type=options.positive, metavar="N", help="questions of each task (default: all)")
    add("--seed", type=int, default=123, metavar="N", help="choice of examples, and sampling (default: 123)")
    add("--fewshot-as-multiturn", action="store_true", help="examples are turns of a chat")
    add(
        "--apply-chat-template",
        action=argparse.BooleanOptionalAction,
        help="questions are chats (default: where the model has a chat template)",
    )
    add("--chat-template-args", type=options.json_object, default={}, metavar="JSON", help="variables of the template")
    add("--confirm-run-unsafe-code", action="store_true", help="allow tasks that run code which the model wrote")
    add("--temp", type=float, metavar="T", help="sampling temperature (default: the task's, else 0)")
    add("--top-p", type=float, metavar="P", help="sampling top-p (default: the task's, else off)")
    add("--top-k", type=int, metavar="K", help="sampling top-k (default: the task's, else off)")
    add("--json", action="store_true", help="print one JSON object")
    return parser


def _run(args: argparse.Namespace) -> int:
    if importlib.util.find_spec("lm_eval") is None:
        raise UnsupportedError("mlx_lm.evaluate needs the lm-eval package: pip install 'mlx-lm[evaluate]'")
    if args.num_shots is not None and args.num_shots < 0:
        raise RequestError(f"--num-shots must be at least 0, not {args.num_shots}.")
    folder = Path(args.output_dir).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(f"--output-dir {folder}: {error.strerror or error}.") from error
    from .loading import load_model

    loaded = load_model(args.model, adapter_path=args.adapter_path, trust_remote_code=args.trust_remote_code)
    from ..evaluate.harness import HarnessModel, Settings, run_tasks

    templated = args.apply_chat_template
    if templated and not loaded.tokenizer.has_chat_template:
        raise UnsupportedError(f"{loaded.name} has no chat template: use --no-apply-chat-template.")
    settings = Settings(
        batch_size=args.batch_size,
        max_tokens=args.max_tokens,
        temperature=args.temp,
        top_p=args.top_p,
        top_k=args.top_k,
        seed=args.seed,
        chat_template=loaded.tokenizer.has_chat_template if templated is None else templated,
        template_arguments=args.chat_template_args,
    )
    model = HarnessModel(loaded.model, loaded.tokenizer, loaded.name, settings, progress=_progress())
    results = run_tasks(
        model,
        args.tasks,
        settings=settings,
        num_shots=args.num_shots,
        limit=args.limit,
        fewshot_as_multiturn=args.fewshot_as_multiturn,
        confirm_run_unsafe_code=args.confirm_run_unsafe_code,
        include_path=args.include_path,
    )
    file = folder / _file_name(loaded.name, args.num_shots, args.tasks)
    file.write_text(json.dumps(results["results"], indent=4, default=str), encoding="utf-8")
    _report(results, as_json=args.json)
    say(f"Results: {file}")
    return 0


def _progress() -> Any:
    if not sys.stderr.isatty():
        return None

    def show(what: str, done: int, total: int) -> None:
        print(f"\r\033[K{done} of {total} {what}" if done < total else "\r\033[K", end="", file=sys.stderr, flush=True)

    return show


def _file_name(model: str, shots: int | None, tasks: Sequence[str]) -> str:
    import lm_eval  # type: ignore[import-not-found]

    parts = ["eval", model, getattr(lm_eval, "__version__", ""), "" if shots is None else f"{shots:02d}", *tasks]
    name = "_".join(part for part in parts if part)
    return re.sub(r"[^\w.,=+-]+", "_", name)[:200]


def _report(results: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(results["results"], default=str))
        return
    from lm_eval.utils import make_table  # type: ignore[import-not-found]

    print(make_table(results))
    if results.get("groups"):
        print(make_table(results, "groups"))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    return run_main(_parser(), _run, argv)
