#!/bin/sh
# Builds native/check (the kernels without Python and MLX) and runs it on every instruction set of the machine.
#   scripts/check_native.sh [--valgrind]       CXX, RUN: another compiler and what runs its programs, for example
#   CXX=aarch64-linux-gnu-g++ RUN="qemu-aarch64 -L /usr/aarch64-linux-gnu" scripts/check_native.sh
# Needs cmake and ninja (PYTHON's environment is looked at first) and, for --valgrind, valgrind, which has no AVX-512:
# it sees the sets below.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
PATH=$(dirname "${PYTHON:-$root/.venv/bin/python}"):$PATH
machine=$(${CXX:-g++} -dumpmachine)
machine=${machine%%-*}
build=$root/build/native-check-$machine
cross=""
if [ "$machine" != "$(uname -m)" ]; then
    cross="-DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=$machine"
fi
cmake -S "$root" -B "$build" -G Ninja -DMLX_LM_CHECK=ON -DCMAKE_CXX_COMPILER="${CXX:-g++}" $cross >/dev/null
cmake --build "$build"
if [ "${1:-}" = "--valgrind" ]; then
    exec valgrind --error-exitcode=9 --leak-check=full --errors-for-leak-kinds=definite "$build/native_check" small
fi
exec ${RUN:-} "$build/native_check"
