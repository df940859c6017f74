#!/bin/sh
# Builds the native kernels in place, into src/mlx_lm/kernels/ (git-ignored), for use with PYTHONPATH=src.
#   scripts/build_native.sh [--sanitize]      PYTHON=... selects the interpreter (default .venv/bin/python)
# Needs mlx[cpu], nanobind, cmake and ninja in that interpreter's environment.
# --sanitize builds with AddressSanitizer and UndefinedBehaviorSanitizer beside a copy of the sources instead, for
# `make sanitize`. Without Python and MLX, for other architectures and valgrind: scripts/check_native.sh.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-$root/.venv/bin/python}
build=$root/build/native
flags=""
target=$root/src
if [ "${1:-}" = "--sanitize" ]; then
    build=$root/build/native-sanitize
    flags="-DMLX_LM_SANITIZE=ON"
    target=$build/src
fi
PATH=$(dirname "$python"):$PATH
mkdir -p "$build"
cmake -S "$root" -B "$build" -G Ninja -DPython_EXECUTABLE="$python" -DCMAKE_BUILD_TYPE=Release $flags >"$build.log" 2>&1 || {
    cat "$build.log"
    exit 1
}
cmake --build "$build"
if [ "$target" != "$root/src" ]; then
    mkdir -p "$target"
    cp -r "$root/src/." "$target/"
fi
# rename is atomic: a process that has the old module mapped keeps it
for module in "$build"/_native*.so; do
    cp "$module" "$target/mlx_lm/kernels/.$(basename "$module").new"
    mv "$target/mlx_lm/kernels/.$(basename "$module").new" "$target/mlx_lm/kernels/$(basename "$module")"
done
