# What there is to do here. Every target installs what it misses (Debian, Ubuntu) or says what
# to install, and starts no server but its own.

SHELL := /bin/bash
# The committed .sqlx checks the statements, whatever database the shell points at.
export SQLX_OFFLINE := true

.PHONY: help setup build demo run test soak bench lint deny prepare manifests static

help: ## This list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## Install what is missing: a C compiler, PostgreSQL's programs
	@scripts/setup.sh

build: setup
	@cargo build --locked

demo: build ## Rate sample data on a private PostgreSQL, print what it cost, stop
	@scripts/demo.sh demo

run: build ## The same on a database that stays, and go on serving
	@scripts/demo.sh run

test: setup ## All tests, on a private PostgreSQL
	cargo test --locked

soak: setup ## The same tests, the long versions
	RATER_SOAK=1 cargo test --locked -- --show-output

bench: setup ## How fast a window is rated
	cargo bench --locked --bench rating

lint: ## Format, clippy, the contract, alerts, manifests, and the dependencies where cargo-deny is installed
	@scripts/setup.sh lint
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	scripts/buf.sh lint
	scripts/promtool.sh check rules ops/prometheus/rules.yaml
	scripts/promtool.sh test rules ops/prometheus/rules_test.yaml
	scripts/manifests.sh
	@if command -v cargo-deny >/dev/null; then $(MAKE) --no-print-directory deny; fi

deny: ## The dependencies' licences, sources and bans (`cargo install cargo-deny`)
	cargo deny --locked check bans licenses sources

manifests: ## Copy alerts and dashboard into k8s/, and hold all of it against Kubernetes' schemas
	@scripts/setup.sh lint
	@scripts/manifests.sh copy

static: setup ## Build the static program of the image, and try it as the image runs it (root)
	scripts/static.sh
	scripts/static_check.sh target/static/*/release/rater

prepare: setup ## Check every SQL statement against the schema, and refresh .sqlx
	@scripts/prepare.sh
