"""Loading the compiled module: one clear warning and the plain path when it does not fit, never an AttributeError."""

import hashlib
import os
import subprocess
import sys
import types
from pathlib import Path

import mlx.core as mx
import pytest

import mlx_lm
from mlx_lm.errors import UnsupportedError
from mlx_lm.kernels import native

EXT = native.extension()
needs_native = pytest.mark.skipif(EXT is None, reason="the native kernels are not installed")

# What INTERFACE stood for when it was last raised. Another digest: raise INTERFACE, then record the new one here.
RECORDED = (7, "a81fb71fcbf241ea")


def _digest(module: types.ModuleType) -> str:
    lines = []
    for name in sorted(vars(module)):
        value = getattr(module, name)
        if not name.startswith("_") and callable(value):
            lines.append(f"{name} {value.__doc__}")
            if isinstance(value, type):
                members = {n: getattr(value, n).__doc__ for n in vars(value) if not n.startswith("_")}
                lines += [f"{name}.{n} {doc}" for n, doc in sorted(members.items())]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


@needs_native
def test_a_change_of_the_bindings_raises_the_interface_number():
    assert EXT is not None
    assert (native.INTERFACE, _digest(EXT)) == RECORDED, "raise INTERFACE in kernels/native.py and record the pair here"


@pytest.mark.parametrize(
    "fields, message",
    [
        ({}, "built for mlx an unknown version"),
        ({"mlx_version": "0.1.2", "interface": native.INTERFACE}, "built for mlx 0.1.2 and mlx"),
        ({"mlx_version": mx.__version__}, "older sources .interface 0, this package needs"),
        ({"mlx_version": mx.__version__, "interface": native.INTERFACE + 1}, "newer sources"),
    ],
)
def test_a_module_that_does_not_fit_is_not_used(monkeypatch, fields, message):
    stale = types.ModuleType("mlx_lm.kernels._native")
    vars(stale).update(fields)
    monkeypatch.setitem(sys.modules, "mlx_lm.kernels._native", stale)
    with pytest.warns(UserWarning, match=message) as caught:
        assert native._load.__wrapped__() is None
    assert len(caught) == 1 and "scripts/build_native.sh" in str(caught[0].message)


def test_symbols_of_another_mlx(monkeypatch):
    def refuse(name):
        raise ImportError("undefined symbol: mlx::core::gone")

    monkeypatch.setattr(native.importlib, "import_module", refuse)
    with pytest.warns(UserWarning, match=r"do not load with mlx .*undefined symbol.*Build them again"):
        assert native._load.__wrapped__() is None


def test_a_missing_module_is_silent(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlx_lm.kernels._native", None)
    assert native._load.__wrapped__() is None


@needs_native
@pytest.mark.parametrize("name, value", [("MLX_LM_ACTIVATIONS", "int3"), ("MLX_LM_ISA", "mmx")])
def test_unknown_settings_are_refused_by_name(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(UnsupportedError, match=f"{name}='{value}'"):
        native._load.__wrapped__()


def test_a_process_that_asks_for_none_gets_none():
    code = "from mlx_lm.kernels import native; print(native.extension(), native.describe())"
    env = {**os.environ, "MLX_LM_NATIVE": "0", "PYTHONPATH": str(Path(mlx_lm.__file__).parent.parent)}
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    assert out.stdout.strip() == "None plain MLX"


@needs_native
@pytest.mark.parametrize("isa", EXT.supported_isas() if EXT is not None else [])
def test_every_instruction_set_can_be_forced_by_the_environment(isa):
    code = "from mlx_lm.kernels import native; print(native.describe())"
    env = {**os.environ, "MLX_LM_ISA": isa, "PYTHONPATH": str(Path(mlx_lm.__file__).parent.parent)}
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    assert out.stdout.startswith(f"native {isa}, ")


@needs_native
def test_the_best_instruction_set_is_the_default():
    assert EXT is not None
    order = ["base", "dotprod", "avx2", "avxvnni", "avx512", "avx512bf16"]
    supported = EXT.supported_isas()
    assert supported == [isa for isa in order if isa in supported] and supported[0] == "base"
    if "MLX_LM_ISA" not in os.environ:
        assert EXT.isa() == supported[-1]


LEAVES_STEPS_BEHIND = """
import sys
import mlx.core as mx
from mlx_lm.engine.thread import EngineThread
from mlx_lm.models import build_model
from mlx_lm.models.cache import make_prompt_cache

model = build_model({
    "model_type": "llama", "hidden_size": 512, "intermediate_size": 4096, "num_hidden_layers": 3, "vocab_size": 97,
    "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-5, "rope_theta": 1e4,
    "max_position_embeddings": 512, "tie_word_embeddings": False,
})

def steps():
    cache, token = make_prompt_cache(model), mx.array([[3]])
    for _ in range(30):
        token = model(token, cache)[:, -1:].argmax(-1)
        mx.async_eval(token)

if sys.argv[1] == "main":
    steps()
else:
    mx.eval(model.parameters())
    with EngineThread() as thread:
        thread.call(steps).result()
"""


@pytest.mark.parametrize("where", ["main", "engine"])
def test_a_process_may_end_while_steps_are_computed(where):
    env = {**os.environ, "PYTHONPATH": str(Path(mlx_lm.__file__).parent.parent)}
    command = [sys.executable, "-c", LEAVES_STEPS_BEHIND, where]
    out = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    assert (out.returncode, out.stderr) == (0, "")
