# The two commands: `make run` and `make test`. Everything they need is made in .venv.
PYTHON ?= python3
PROMPT ?= Why is the sky blue? Answer in one sentence.
VENV := .venv
BIN := $(VENV)/bin
NATIVE := pyproject.toml CMakeLists.txt $(wildcard native/*.*) $(wildcard native/isa/*)
EXTRA := $(if $(filter Linux,$(shell uname -s)),[cpu],)

.PHONY: run test test-slow check parity bench sanitize valgrind clean

run: $(VENV)/installed
	@$(BIN)/mlx_lm.generate --model smollm2 --prompt "$(PROMPT)"

test: $(VENV)/tested
	@$(BIN)/python -c "from mlx_lm.hub import resolve; resolve('smollm2')"
	@$(BIN)/python scripts/fetch_schema_suite.py || echo "The official schema suite was not fetched; its tests are skipped."
	$(BIN)/python -m pytest -n 2 $(ARGS)

test-slow: $(VENV)/tested
	@$(BIN)/python -c "from mlx_lm.hub import resolve; [resolve(m) for m in ('smollm2', 'gemma-3-270m', 'qwen2.5-coder-1.5b')]"
	$(BIN)/python -m pip install --quiet --group slow
	$(BIN)/python -m pytest -m slow $(ARGS)

check: $(VENV)/tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports

# Makes the parity references again from transformers and compares them with the committed ones.
parity: $(VENV)-parity/installed
	$(VENV)-parity/bin/python scripts/make_parity.py --check

bench: $(VENV)/tested
	$(BIN)/python -m benchmarks $(ARGS)

# The kernels' tests under AddressSanitizer and UndefinedBehaviorSanitizer (their build takes minutes).
sanitize: $(VENV)/tested
	$(BIN)/python -m pip install --quiet --group native
	PYTHON=$(abspath $(BIN)/python) scripts/build_native.sh --sanitize
	LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" \
	  ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
	  PYTHONPATH=build/native-sanitize/src $(BIN)/python -m pytest -q tests/kernels $(ARGS)

# The kernels alone, without Python and MLX, under valgrind.
valgrind: $(VENV)/tested
	$(BIN)/python -m pip install --quiet --group native
	PYTHON=$(abspath $(BIN)/python) scripts/check_native.sh --valgrind

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/installed: $(VENV)/bin/python $(NATIVE)
	@echo "Installing mlx-lm into $(VENV) (compiles the CPU kernels on Linux, about a minute)"
	$(BIN)/python -m pip install --quiet --editable ".$(EXTRA)"
	@touch $@

$(VENV)/tested: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --group test
	@touch $@

$(VENV)-parity/installed: scripts/make_parity.py
	$(PYTHON) -m venv $(VENV)-parity
	$(VENV)-parity/bin/python -m pip install --quiet torch==2.13.0
	$(VENV)-parity/bin/python -m pip install --quiet transformers==5.23.0
	@touch $@

clean:
	rm -rf $(VENV) $(VENV)-parity build
