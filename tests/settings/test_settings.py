"""Settings: which source wins, what is refused and how it is said, and the table in the documentation."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mlx_lm.errors import ConfigError
from mlx_lm.server.options import ServerSettings
from mlx_lm.settings import add_arguments, parse_bytes, read_env_file, read_settings, settings_of, settings_table

DOCS = Path(__file__).parents[2] / "docs" / "server.md"


def _read(argv: list[str] | None = None, **sources: Any) -> Any:
    parser = argparse.ArgumentParser()
    add_arguments(parser, ServerSettings)
    return read_settings(ServerSettings, vars(parser.parse_args(argv or [])), **{"environ": {}, **sources})


def _file(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_nothing_given_is_the_defaults() -> None:
    found = _read()
    assert found.values == ServerSettings() and not found.sources


def test_the_nearest_source_wins(tmp_path: Path) -> None:
    toml = _file(
        tmp_path / "c.toml", "[mlx]\nkv_bits = 2\nmax_batch_size = 2\nprefill_step_size = 64\n[server]\nport = 1\n"
    )
    env_file = _file(tmp_path / ".env", "MLX_LM_KV_BITS=3\nMLX_LM_MAX_BATCH_SIZE=3\nMLX_LM_PREFILL_STEP_SIZE=128\n")
    environ = {"MLX_LM_KV_BITS": "4", "MLX_LM_MAX_BATCH_SIZE": "4"}
    found = _read(["--kv-bits", "8"], environ=environ, env_file=env_file, toml=toml)
    values = found.values
    assert (values.kv_bits, values.max_batch_size, values.prefill_step_size, values.port) == (8, 4, 128, 1)
    assert found.sources["kv_bits"] == "--kv-bits"
    assert found.sources["max_batch_size"] == "MLX_LM_MAX_BATCH_SIZE in the environment"
    assert found.sources["port"] == f"server.port in {toml}"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("KV_BITS", "7", "must be one of 2, 3, 4, 5, 6, 8"),
        ("KV_BITS", "4.5", "must be a whole number"),
        ("PORT", "70000", "at most 65535"),
        ("PORT", "none", "must be a whole number"),
        ("MAX_BATCH_SIZE", "0", "at least 1"),
        ("TEMP", "nan", "must be a number"),
        ("TEMP", "true", "must be a number"),
        ("PROMPT_CACHE_BYTES", "4 parsec", "a number of bytes"),
        ("TRUST_REMOTE_CODE", "perhaps", "true or false"),
        ("BLOCK_TOKENS", "128", "must be one of 256"),
        ("ALIASES", "a", "pairs as in"),
        ("PROMPT_CONCURRENCY", "8", "is not supported"),
        ("LOG_LEVEL", "LOUD", "must be one of DEBUG"),
    ],
)
def test_wrong_values_name_their_source(name: str, value: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        _read(environ={f"MLX_LM_{name}": value})
    assert f"MLX_LM_{name} in the environment" in str(caught.value)


def test_secrets_are_not_shown(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        _read(toml=_file(tmp_path / "c.toml", "[server]\napi_keys = 12345\n"))
    assert "12345" not in str(caught.value)


def test_other_names_of_a_setting(tmp_path: Path) -> None:
    assert _read(["--decode-concurrency", "5"]).values.max_batch_size == 5
    assert _read(["--model", "m"]).values.model_id == "m"
    assert _read(environ={"MLX_LM_CACHE_BUDGET_MB": "2048"}).values.prompt_cache_bytes == 2**31
    toml = _file(tmp_path / "c.toml", "[mlx]\ncache_budget_mb = 1\n")
    assert _read(["--prompt-cache-bytes", "7"], toml=toml).values.prompt_cache_bytes == 7
    assert _read(environ={"MLX_LM_API_KEY": "k1, k2"}).values.api_keys == ("k1", "k2")


def test_no_value_is_a_value(tmp_path: Path) -> None:
    toml = _file(tmp_path / "c.toml", "[mlx]\nkv_bits = 4\n")
    for text in ("none", "null", ""):
        assert _read(environ={"MLX_LM_KV_BITS": text}, toml=toml).values.kv_bits is None


def test_toml_keys_are_checked_in_known_sections(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"mlx.kv_bit in .* is no setting; did you mean kv_bits\?"):
        _read(toml=_file(tmp_path / "c.toml", "[mlx]\nkv_bit = 4\n"))
    with pytest.raises(ConfigError, match="cannot be read"):
        _read(toml=_file(tmp_path / "d.toml", "[mlx\n"))
    _read(toml=_file(tmp_path / "e.toml", "[agent]\nmax_agents = 5\n"))


def test_tables(tmp_path: Path) -> None:
    toml = _file(tmp_path / "c.toml", '[models]\npin = ["q"]\n[models.allow]\nq = "/models/q"\n')
    values = _read(["--aliases", "gpt=q,o=q"], toml=toml).values
    assert values.models == {"q": "/models/q"} and values.aliases == {"gpt": "q", "o": "q"} and values.pin == ("q",)
    assert _read(["--chat-template-args", '{"enable_thinking": false}']).values.chat_template_args == {
        "enable_thinking": False
    }


def test_env_files(tmp_path: Path) -> None:
    text = "# c\n\nexport A=1\nB = 'two words' \nC=\"x # y\"\nD=three # comment\nE=\n"
    assert read_env_file(_file(tmp_path / ".env", text)) == {
        "A": "1", "B": "two words", "C": "x # y", "D": "three", "E": ""
    }  # fmt: skip
    with pytest.raises(ConfigError, match="line 1"):
        read_env_file(_file(tmp_path / "bad.env", "nonsense\n"))


@pytest.mark.parametrize(("text", "value"), [("5", 5), ("1.5k", 1500), ("2MB", 2 * 10**6), ("4 GiB", 2**32)])
def test_bytes(text: str, value: int) -> None:
    assert parse_bytes(text) == value


@pytest.mark.parametrize("flag", ["pipeline", "prompt-concurrency", "prompt-cache-size"])
def test_options_of_mlx_lm_that_are_refused_say_why(flag: str) -> None:
    with pytest.raises(ConfigError, match=f"--{flag} is not supported: "):
        _read([f"--{flag}", "1"] if flag != "pipeline" else ["--pipeline"])


def test_every_option_of_mlx_lm_is_known() -> None:
    flags = {flag for row in settings_of(ServerSettings) for flag in row.flags}
    flags |= {name.replace("_", "-") for row in settings_of(ServerSettings) for name in row.also}
    wanted = (
        "model adapter-path host port allowed-origins draft-model num-draft-tokens trust-remote-code log-level kv-bits "
        "kv-group-size quantized-kv-start pipeline chat-template use-default-chat-template temp top-p top-k min-p "
        "max-tokens chat-template-args decode-concurrency prompt-concurrency prefill-step-size prompt-cache-size "
        "prompt-cache-bytes disk-prompt-cache-dir disk-prompt-cache-bytes disk-prompt-cache-min-tokens memory-budget "
        "max-queue"
    )
    assert not set(wanted.split()) - flags


def test_the_documentation_has_the_table() -> None:
    assert settings_table(ServerSettings).strip() in DOCS.read_text(encoding="utf-8")


def test_settings_are_values() -> None:
    assert replace(ServerSettings(), port=1).port == 1
    with pytest.raises(ConfigError, match="max_tokens"):
        ServerSettings(max_tokens=0)
    with pytest.raises(ConfigError, match="two ways to guess"):
        ServerSettings(model_id="m", draft_model="d", speculation="ngram")
