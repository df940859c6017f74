"""Settings: their sources, ranges and meaning for mlx_lm's server."""

import logging
from pathlib import Path

import pytest
from mlx_lm.errors import ConfigError
from mlx_lm.server.options import ServerSettings as MLXServerSettings
from mlx_lm.settings import read_settings
from pydantic import ValidationError

from semantic.adapters.config.settings import MLXSettings, SemanticSettings, ServerSettings


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("SEMANTIC_API_KEY", "ANTHROPIC_API_KEY", "SEMANTIC_AUTH_DISABLED", "SEMANTIC_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_the_nearest_source_wins(empty_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MLXSettings().max_batch_size == 1
    (empty_folder / "config").mkdir()
    (empty_folder / "config/default.toml").write_text("[mlx]\nmax_batch_size = 2\nkv_bits = 'none'\n")
    assert (MLXSettings().max_batch_size, MLXSettings().kv_bits) == (2, None)
    (empty_folder / ".env").write_text("SEMANTIC_MLX_MAX_BATCH_SIZE=3\n")
    assert MLXSettings().max_batch_size == 3
    monkeypatch.setenv("SEMANTIC_MLX_MAX_BATCH_SIZE", "4")
    assert MLXSettings().max_batch_size == 4
    assert MLXSettings(max_batch_size=5).max_batch_size == 5


def test_the_file_that_ships_is_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = Path(__file__).parents[1] / "config/default.toml"
    monkeypatch.setenv("SEMANTIC_CONFIG", str(shipped))
    assert MLXSettings() == MLXSettings.model_construct(**MLXSettings().model_dump())
    assert read_settings(MLXServerSettings, {}, environ={}, toml=shipped).values.kv_bits == 4


@pytest.mark.parametrize("value", ["none", "null", "0", "", 0, None])
def test_no_bits_means_no_quantization(value: object, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MLXSettings(kv_bits=value).kv_bits is None
    if isinstance(value, str):
        monkeypatch.setenv("SEMANTIC_MLX_KV_BITS", value)
        assert MLXSettings().kv_bits is None


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("kv_bits", 3),
        ("kv_bits", 7),
        ("kv_bits", "7"),
        ("kv_bits", 9),
        ("kv_group_size", 48),
        ("kv_group_size", 512),
        ("max_context_length", 1023),
        ("max_context_length", 163_841),
        ("max_batch_size", 0),
        ("max_batch_size", 21),
        ("prefill_step_size", 64),
        ("cache_budget_mb", 511),
        ("cache_budget_mb", 16_385),
        ("default_temperature", 2.5),
        ("zebra", 1),
    ],
)
def test_ranges(name: str, bad: object) -> None:
    with pytest.raises(ValidationError, match=name):
        MLXSettings(**{name: bad})


def test_what_has_no_effect_is_said(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("SEMANTIC_MLX_CHUNKED_PREFILL_THRESHOLD", "2048")
    monkeypatch.setenv("SEMANTIC_SERVER_RATE_LIMIT_GLOBAL", "10")
    with caplog.at_level(logging.WARNING):
        SemanticSettings()
    assert "SEMANTIC_MLX_CHUNKED_PREFILL_THRESHOLD has no effect" in caplog.text
    assert "SEMANTIC_SERVER_RATE_LIMIT_GLOBAL has no effect" in caplog.text


def test_what_mlx_lms_server_gets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEMANTIC_MLX_KV_BITS", "8")
    monkeypatch.setenv("SEMANTIC_SERVER_CORS_ORIGINS", "http://localhost:3000")
    monkeypatch.setenv("SEMANTIC_AGENT_CACHE_DIR", "/tmp/caches")
    monkeypatch.setenv("SEMANTIC_API_KEY", "k1")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "k2, k3")
    got = read_settings(MLXServerSettings, SemanticSettings().to_server(), environ={}).values
    assert (got.host, got.port, got.kv_bits, got.kv_group_size) == ("127.0.0.1", 8000, 8, 64)
    assert (got.max_context_length, got.max_batch_size, got.prefill_step_size) == (100_000, 1, 512)
    assert got.prompt_cache_bytes == 2048 * 2**20
    assert got.disk_prompt_cache_dir == "/tmp/caches"
    assert got.api_keys == ("k1", "k2", "k3")
    assert got.allowed_origins == ("http://localhost:3000",)
    assert dict(got.aliases) == {"*": "default_model"}
    assert (got.temp, got.max_tokens) == (0.7, 256)
    monkeypatch.setenv("SEMANTIC_AUTH_DISABLED", "true")
    assert SemanticSettings().api_keys == ()


@pytest.mark.parametrize("bits", [4, 5, 6, 8])
def test_every_number_of_bits_that_is_taken_is_one_of_the_engine(bits: int) -> None:
    given = SemanticSettings(mlx={"kv_bits": bits}).to_server()
    assert read_settings(MLXServerSettings, given, environ={}).values.kv_bits == bits


@pytest.mark.parametrize("given", [{"kv_group_size": 16}, {"kv_group_size": 256}, {"block_tokens": 64}], ids=str)
def test_what_the_former_server_took_and_the_engine_does_not_have_is_refused(given: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=next(iter(given)).replace("_", "-")):
        read_settings(MLXServerSettings, SemanticSettings(mlx=given).to_server(), environ={})


def test_one_process_only() -> None:
    with pytest.raises(ValidationError, match="workers"):
        ServerSettings(workers=2)


def test_the_default_context_is_not_more_than_the_model_has(caplog: pytest.LogCaptureFixture) -> None:
    for given, expected in (({}, 8192), ({"max_context_length": 100_000}, 100_000)):
        settings = SemanticSettings(mlx=given)
        settings.fit_context(8192)
        assert settings.to_server()["max_context_length"] == expected
    assert caplog.text.count("8192 positions") == 1
    settings = SemanticSettings()
    settings.fit_context(None)
    settings.fit_context(163_840)
    assert settings.to_server()["max_context_length"] == 100_000
