"""`mlx_lm` itself, and what all commands share."""

import gc
import subprocess
import sys

import pytest

import mlx_lm
from mlx_lm.cli.app import COMMANDS, no_collections
from mlx_lm.cli.main import main


def test_overview_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    for name, summary in COMMANDS.items():
        assert f"  {name} " in out and summary in out
    assert main([]) == 2
    assert capsys.readouterr().err == out


def test_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generat"]) == 2
    assert "'generate'" in capsys.readouterr().err
    assert main(["xyz"]) == 2
    assert "chat" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"mlx_lm {mlx_lm.__version__}\n"


@pytest.mark.parametrize("name", [*COMMANDS, "cache-prompt"])
def test_help_of_every_command(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([name, "--help"])
    assert end.value.code == 0
    assert f"mlx_lm.{name.replace('-', '_')}" in capsys.readouterr().out


def test_help_imports_nothing_heavy() -> None:
    heavy = ("mlx.core", "numpy", "tokenizers", "huggingface_hub", "jinja2", "transformers")
    program = (
        "import sys\n"
        "from mlx_lm.cli.main import main\n"
        "for name in sys.argv[1].split(','):\n"
        "    try: main([name, '--help'])\n"
        "    except SystemExit: pass\n"
        f"found = [m for m in {heavy!r} if m in sys.modules]\n"
        "sys.exit(', '.join(found) or 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, ",".join(COMMANDS)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("module", ["mlx_lm", *(f"mlx_lm.{name}" for name in COMMANDS)])
def test_modules_run(module: str) -> None:
    done = subprocess.run([sys.executable, "-m", module, "--help"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: ")


def test_garbage_is_looked_for_again_after_the_start() -> None:
    with no_collections(), no_collections():
        assert not gc.isenabled()
    assert gc.isenabled() and gc.get_freeze_count() == 0
    with pytest.raises(ValueError), no_collections():
        raise ValueError
    assert gc.isenabled()
    gc.disable()
    try:
        with no_collections():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
