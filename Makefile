# aioloop: `make run` and `make test` do all the set-up; `make help` lists the rest.
#
#   PYTHON=  the interpreter (python3 if it is 3.11 or newer, else the newest python3.X)
#   VENV=    the virtual environment (.venv)
#   ARGS=    more arguments for pytest (test, asan, hard, portable, leaks), benchmarks;
#            `make test ARGS=tests/unit` runs that part alone
#   SEEDS=, SUITE_SEEDS=  seeds of `make faults`: of transfers (1000), of tests (5)
#   FUZZ=clang  `make white` by libFuzzer
#   NET_ARGS=  more arguments for the benchmarks of the network
#   MINUTES=, LOOP=  of `make soak`; MINUTES= of `make fuzz`, too (5)

PYTHON ?=
VENV ?= .venv
ARGS ?=
NET_ARGS ?=
SEEDS ?= 1000
SUITE_SEEDS ?= 5
FUZZ ?=
MINUTES ?= 5
LOOP ?= aioloop

export PYTHON VENV
bin := $(abspath $(VENV))/bin
in_venv := PATH="$(bin):$$PATH" PYTHONPATH="$(CURDIR)"
pytest := $(in_venv) $(bin)/python -m pytest
python_files = . .ci/copy-tree
own_tests = tests/shim tests/unit tests/diagnosis tests/hostile tests/parity tests/leaks tests/oom
# One comparison of each layout (src/base/layout.h), and the second where it is of another kind.
LIES ?= future future1 task task2 current_task handle handle1 transport transport_socket \
	stream_reader ssl_protocol socket frames
# What comes out of these is the same under valgrind, which makes all slow; those that -k
# leaves out measure time, or start a missing program by vfork, which is fork there.
valgrind_tests = $(foreach name,sched future task handle timer context registry jobs fds \
	stream server sockops dgram pipe tls,tests/unit/test_$(name).py) \
	-k 'not no_millisecond_late and not leave_together and not missing_program'
c_files = $(shell find src benchmarks tests -name '*.[ch]')

.DEFAULT_GOAL := help
.PHONY: run test help build format lint asan hard lying portable threads leaks faults white valgrind refs suites seeds fuzz soak plugs bench docs sdist wheels test-all clean set-up

run: tools = build
run: build ## Set up, build, and run the demo on aioloop
	@$(in_venv) $(bin)/python -m aioloop aioloop/demo.py

test: build ## Set up, build, and run the tests
	@$(pytest) $(ARGS)

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 12

build: set-up ## Build the extension in place
	@$(bin)/python setup.py -q build_ext --inplace

tools = test
set-up:
	@.ci/set-up $(tools)

format: ## Format the C and the Python sources
	@.ci/set-up test && .ci/set-up lint
	@$(bin)/clang-format -i $(c_files)
	@$(bin)/ruff check -q --fix-only $(python_files)
	@$(bin)/ruff format -q $(python_files)

lint: ## Formatting, warnings as errors, cppcheck, gcc -fanalyzer, ruff
	@.ci/set-up test && .ci/set-up lint
	@$(in_venv) .ci/lint

# The programs of tests/libs, tests/programs and tests/upstream run in the release and
# in the hard build.
asan: set-up ## The tests under AddressSanitizer and UndefinedBehaviorSanitizer
	@$(in_venv) .ci/flavour asan python -m pytest $(own_tests) $(ARGS)

hard: set-up ## The tests in the hard build (short reads and writes, false EAGAIN)
	@$(in_venv) .ci/flavour hard python -m pytest tests $(ARGS)

lying: set-up ## asyncio's tests, told something false of each of Python's structs in turn
	@for lie in $(LIES); do \
		echo "lying about $$lie"; \
		$(in_venv) .ci/flavour lying:$$lie python -m pytest -q tests/upstream \
			tests/unit/test_layouts.py $(ARGS) || exit 1; \
	done

portable: set-up ## Compile for macOS, the BSDs, musl; the tests without what only Linux has
	@.ci/set-up cross
	@$(in_venv) .ci/cross
	@$(in_venv) .ci/flavour portable python -m pytest $(own_tests) $(ARGS)

threads: ## The tests of threads without the GIL, then under ThreadSanitizer
	@.ci/threads

leaks: build ## The leak tests: references, memory blocks, descriptors
	@$(pytest) tests/leaks $(ARGS)

faults: build ## Transfers, and the tests of the network, above system calls that go wrong, by seeds
	@$(in_venv) $(bin)/python -m tests.shim.transfer --seeds 0-$$(($(SEEDS) - 1)) $(ARGS)
	@$(in_venv) $(bin)/python -m tests.shim.suite --seeds 0-$$(($(SUITE_SEEDS) - 1))

suites: build ## Libraries' own test-suites, on asyncio and on aioloop (minutes each)
	@AIOLOOP_SUITES=1 $(pytest) tests/libs/test_suites.py tests/libs/test_virtual_suites.py $(ARGS)
	@mkdir -p build/suites
	@$(in_venv) $(bin)/python -m tests.libs.table >build/suites/tests.md

white: set-up ## C programs that include a room and compare it with a model, under sanitizers, a minute each
	@$(in_venv) $(bin)/python -m tests.white $(if $(filter clang,$(FUZZ)),--libfuzzer) $(ARGS)

valgrind: ## Tests of the core and of the network under valgrind, with 3.13 (minutes)
	@.ci/on 3.13 .ci/flavour valgrind python -m pytest -q --timeout=600 $(valgrind_tests) $(ARGS)

refs: ## The leak tests in a debug build of CPython 3.14, which counts all references
	@.ci/on 3.14 python -m tests.leaks $(ARGS)

seeds: build ## asyncio's own tests in virtual time and in 100 orders (minutes)
	@$(in_venv) $(bin)/python -m tests.upstream.seeds $(ARGS)

fuzz: build ## Random programs on asyncio and on aioloop; their traces are equal
	@$(in_venv) $(bin)/python -m tests.fuzz --minutes $(MINUTES) $(ARGS)

soak: build ## Everything at once for MINUTES minutes (5), on LOOP (aioloop, asyncio)
	@$(in_venv) $(bin)/python -m tests.soak --minutes $(MINUTES) --loop $(LOOP) $(ARGS)

plugs: build ## Every plug point of docs/plugs.md with the real server or program (minutes)
	@AIOLOOP_PLUGS=1 $(pytest) tests/plugs $(ARGS)

bench: build ## The benchmarks against asyncio and the rival loops
	@.ci/set-up rivals || echo "bench: not every rival loop is here" >&2
	@$(in_venv) $(bin)/python -m benchmarks $(ARGS)
	@mkdir -p build
	@$(in_venv) $(bin)/python -m benchmarks.net --quick --markdown build/net.md \
		--picture benchmarks/net/picture.svg $(NET_ARGS)

docs: build ## The pages with search and the API reference: build/docs/index.html
	@.ci/set-up docs
	@$(in_venv) $(bin)/python -m benchmarks.pictures
	@$(in_venv) $(bin)/python docs/site/build.py

sdist: set-up ## The source archive, with libev in it: dist/aioloop-*.tar.gz
	@.ci/sdist

wheels: set-up ## The wheels of 3.11-3.15, built, audited, installed and tried: dist/*.whl
	@.ci/wheels $(ARGS)

test-all: ## Everything: lint, every interpreter, sanitizers, hard build
	@.ci/run

clean: ## Remove what the build and the tests made
	@rm -rf build dist ./*.egg-info .pytest_cache .ruff_cache .hypothesis .mypy_cache
	@rm -f aioloop/_core*.so
	@find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
