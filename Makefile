# Everything that people do with this checkout. Each target installs what it needs.
SHELL := /bin/bash
TOOLS ?= $(HOME)/.cache/keymill/bin
export PATH := /usr/sbin:/sbin:$(PATH)

.PHONY: all build demo examples test race lint fuzz bench package service newcomer clean

all: build

build:            ## build bin/keymill
	go build -trimpath -o bin/keymill ./cmd/keymill

demo:             ## the whole job on this machine, in ./keymill-demo
	@.ci/setup demo
	@go build -trimpath -o bin/keymill ./cmd/keymill
	./bin/keymill demo

examples:         ## all the examples, each against a trial of its own
	@.ci/setup test
	@go build -trimpath -o bin/keymill ./cmd/keymill
	@for run in examples/*/run.sh; do echo "== $$run"; KEYMILL=$(CURDIR)/bin/keymill $$run || exit 1; done

test:             ## all tests
	@.ci/setup test
	go vet ./...
	go test -timeout 60m ./...

race:             ## all tests under the race detector
	@.ci/setup test
	go test -race -timeout 120m ./...

lint:             ## the house rules
	@KEYMILL_TOOLS=$(TOOLS) .ci/setup lint
	$(TOOLS)/golangci-lint run ./...

FUZZTIME ?= 30s
fuzz:             ## every fuzz target for FUZZTIME
	@.ci/setup test
	@grep -rl --include='*_test.go' '^func Fuzz' . | xargs -n1 dirname | sort -u | while read -r dir; do \
	  for target in $$(grep -ho '^func Fuzz[A-Za-z0-9_]*' $$dir/*_test.go | cut -c6-); do \
	    echo "== $$dir $$target"; go test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) $$dir || exit 1; \
	  done; done

bench:            ## what is claimed of speed, with the limit or the peer beside it
	@.ci/setup test
	@.ci/bench

package:          ## a Debian package and its SBOM in dist/; the same commit gives the same bytes
	@.ci/setup package
	@.ci/package dist

service:          ## the package at work on a machine that boots for it: systemd, timers, stop, hang, upgrade, purge
	@.ci/setup test
	@.ci/service

newcomer:         ## README's commands on a fresh Debian, with the time that they take
	@.ci/setup test
	@.ci/newcomer

clean:
	rm -rf bin dist keymill-demo
