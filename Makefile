# SPDX-License-Identifier: Apache-2.0
#
# A help menu. Everything behind it is meson, ninja and the scripts in tools/ and tests/.

help:
	@echo "make build     install what is missing, compile into build/"
	@echo "make run       and start ew-ingest with a private virus scanner   (LISTEN= BUCKET= SCANNER=)"
	@echo "make run-gateway  the same for ew-gateway, with a private RabbitMQ and a worker  (LISTEN= CONFIG=)"
	@echo "make test      and run every test; the last line counts them"
	@echo "make check     format, clang-tidy, and dependencies that point downwards"
	@echo "make asan      unit tests and apps with address and undefined behaviour sanitizers"
	@echo "make tsan      the core's unit tests with the thread sanitizer"
	@echo "make valgrind  the core's unit tests with Valgrind"
	@echo "make coverage  the branches of src/ that the tests take, and what is left, with reasons"
	@echo "make fuzz      fuzz each target for SECONDS=60"
	@echo "make soak      hours of trouble: SECONDS=3600 of load, KILLS=1000, CUTS=100, RACES=1000000"
	@echo "make bench     the benchmarks"
	@echo "make install   install library, headers and programs   (DESTDIR=)"
	@echo "make clean     remove build/"

build: build-dependencies
	@tools/build

run: run-dependencies build
	@LISTEN='$(LISTEN)' BUCKET='$(BUCKET)' SCANNER='$(SCANNER)' tools/run-ingest

run-gateway: run-gateway-dependencies build
	@LISTEN='$(LISTEN)' CONFIG='$(CONFIG)' tools/run-gateway

test: test-dependencies
	@tests/run

check: test-dependencies
	@tests/run format tidy map

asan: test-dependencies
	@tests/run asan apps-asan

tsan: test-dependencies
	@tests/run tsan

valgrind: test-dependencies
	@tests/run valgrind

coverage: test-dependencies
	@tests/run coverage
	@cat build/test-logs/coverage.log

SECONDS = 60
fuzz: test-dependencies
	@tools/build fuzz
	@tools/fuzz all $(SECONDS)

soak: SECONDS = 3600
soak: KILLS = 1000
soak: CUTS = 100
soak: RACES = 1000000
soak: test-dependencies
	@tools/build
	@tools/soak $(SECONDS) $(KILLS) $(CUTS) $(RACES)

bench: test-dependencies build
	@build/bench/micro
	@build/bench/storm
	@bench/lanes.py
	@bench/gateway.py

install: build
	@meson install -C build

clean:
	@rm -rf build

build-dependencies run-dependencies run-gateway-dependencies test-dependencies:
	@tools/install-deps $(@:-dependencies=)

.PHONY: help build run run-gateway test check asan tsan valgrind fuzz soak bench install clean
.PHONY: coverage build-dependencies run-dependencies run-gateway-dependencies test-dependencies
