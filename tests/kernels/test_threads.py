"""The thread pool: its size follows what the process may use, all engines share it, and results do not depend on it."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

import mlx_lm
from mlx_lm import kernels
from mlx_lm.kernels import KVView, native

EXT = native.extension()
pytestmark = pytest.mark.skipif(EXT is None, reason="the native kernels are not installed")


def _threads_of(code: str = "", **environment: str) -> int:
    """`num_threads()` of a new process, after `code`."""
    code += "\nfrom mlx_lm.kernels import native\nprint(native.extension().num_threads())"
    env = {k: v for k, v in os.environ.items() if k != "MLX_LM_NUM_THREADS"}
    env |= {"PYTHONPATH": str(Path(mlx_lm.__file__).parent.parent), **environment}
    return int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True).stdout)


def test_the_setting_and_the_affinity_mask_are_respected():
    assert _threads_of(MLX_LM_NUM_THREADS="3") == 3
    one = f"import os; os.sched_setaffinity(0, {{{min(os.sched_getaffinity(0))}}})"
    assert _threads_of(one) == 1
    assert _threads_of(one, MLX_LM_NUM_THREADS="2") == 2  # who sets it knows
    assert 1 <= _threads_of(MLX_LM_NUM_THREADS="nonsense") <= len(os.sched_getaffinity(0))


def test_quotas_of_control_groups(tmp_path):
    assert EXT is not None
    two = tmp_path / "v2"
    (two / "outer/inner").mkdir(parents=True)
    (tmp_path / "two").write_text("0::/outer/inner\n")
    quota = lambda: EXT.cgroup_quota(str(tmp_path / "two"), str(two))  # noqa: E731
    assert quota() == 1e9
    (two / "outer/inner/cpu.max").write_text("max 100000\n")
    assert quota() == 1e9
    (two / "outer/cpu.max").write_text("150000 100000\n")
    assert quota() == 1.5
    (two / "outer/inner/cpu.max").write_text("50000 100000\n")
    assert quota() == 0.5
    one = tmp_path / "v1"
    (one / "cpu/box").mkdir(parents=True)
    (tmp_path / "one").write_text("5:memory:/other\n3:cpu,cpuacct:/box\n")
    (one / "cpu/box/cpu.cfs_quota_us").write_text("-1\n")
    (one / "cpu/box/cpu.cfs_period_us").write_text("100000\n")
    assert EXT.cgroup_quota(str(tmp_path / "one"), str(one)) == 1e9
    (one / "cpu/box/cpu.cfs_quota_us").write_text("300000\n")
    assert EXT.cgroup_quota(str(tmp_path / "one"), str(one)) == 3
    assert EXT.cgroup_quota(str(tmp_path / "absent"), str(one)) == 1e9


def _work(seed: int) -> list[mx.array]:
    """One of each kind of parallel region, large enough to be shared out."""
    rng = np.random.default_rng(seed)
    x = mx.array(rng.standard_normal((40, 256)), mx.float32)
    w = mx.array(rng.standard_normal((512, 256)), mx.float32)
    packed = mx.quantize(w, group_size=64, bits=4)
    heads = x.reshape(1, 4, 40, 64)
    decay = -mx.abs(heads[..., 0].swapaxes(1, 2))
    steps = heads.swapaxes(1, 2) * 0.1

    def loss(x, n):
        return (
            kernels.attention(kernels.rms_norm(x, n, 1e-5).reshape(1, 4, 40, 64), (KVView(heads, heads),), scale=0.1)
            ** 2
        ).sum()

    return [
        kernels.quantized_matmul(x, *packed),
        kernels.matmul(x, w),
        kernels.rms_norm(x, w[0], 1e-5),
        kernels.attention(heads, (KVView(heads, heads),), scale=0.1),
        kernels.gated_delta(steps, steps, steps, decay, mx.sigmoid(decay), None)[0],
        *kernels.top_k(w, 5),
        *mx.grad(loss, argnums=(0, 1))(x, w[1]),
    ]


@pytest.mark.parametrize("mode", native.ACTIVATION_MODES)
def test_results_are_the_same_again_and_for_every_number_of_threads(mode):
    assert EXT is not None
    EXT.set_activations(mode)
    known: dict[int, list[np.ndarray]] = {}
    for threads in (1, 2, 3, 1, 2, 3, 2):
        EXT.set_num_threads(threads)
        found = [np.array(a) for a in _work(1)]
        again = known.setdefault(threads, found)
        assert all(np.array_equal(a, b) for a, b in zip(again, found, strict=True))
        # but the gradient of a norm's weight is a sum over rows, cut where the threads' shares are
        assert all(np.array_equal(a, b) for a, b in zip(known[1][:-1], found[:-1], strict=True))


def test_engines_on_several_threads_share_one_pool():
    assert EXT is not None
    EXT.set_num_threads(3)
    expected = {seed: [np.array(a) for a in _work(seed)] for seed in range(4)}
    names: set[int] = set()
    wrong: list[str] = []

    def engine(seed: int) -> None:
        with mx.stream(mx.new_stream(mx.cpu)):
            for _ in range(8):
                found = [np.array(a) for a in _work(seed)]
                if not all(np.array_equal(a, b) for a, b in zip(found, expected[seed], strict=True)):
                    wrong.append(f"engine {seed} got other numbers")
                names.add(_pool_threads())

    engines = [threading.Thread(target=engine, args=(seed,)) for seed in range(4)]
    for thread in engines:
        thread.start()
    for thread in engines:
        thread.join()
    assert not wrong
    assert names == {2}  # the caller is the third


def _pool_threads() -> int:
    count = 0
    for task in Path("/proc/self/task").iterdir():
        try:
            count += (task / "comm").read_text() == "mlx_lm pool\n"
        except OSError:  # it has just ended
            continue
    return count
