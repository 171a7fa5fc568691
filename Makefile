# Run `make` for the list. Only cargo, sh and the scripts named here do the work: nothing is hidden in this file.
CARGO ?= cargo
AGENT ?= smol
TIME ?= 0
BENCH ?=
DESTDIR ?=
PREFIX ?= /usr
ARCH ?=

# The players of fixtures are features that no daemon has.
TEST_FEATURES = azure-proxy-agent-core/replay,runtime-blocking/replay,runtime-smol/replay

# What tests said, for docs/conformance.md.
OUTPUT = $(or $(CARGO_TARGET_DIR),target)/test-output.txt

TARGET = $(abspath $(or $(CARGO_TARGET_DIR),target))
# The update process (docs/releasing.md) is a Python package beside the packaging that it is about; only the standard library.
SRU = PYTHONPATH=debian python3 -B -m sru

# Machines in qemu with the installed package (testdata/vm). Without DEB the package is built; without OLD the version before is the same
# program under a lower version.
VM = testdata/vm/vm
VM_OPTIONS = --cache "$(TARGET)/vm" --host "$(TARGET)/release/azure-host-sim" --kernel $(or $(KERNEL),6.1) \
    $(if $(CPUS),--cpus $(CPUS)) $(if $(MEMORY),--memory $(MEMORY)) $(if $(OLD),--old '$(OLD)') \
    --deb "$(or $(DEB),$$(ls -t "$${AZURE_PROXY_AGENT_DEB:-$(TARGET)/deb}"/azure-proxy-agent$(if $(filter minimal,$(AGENT)),-minimal)_*_amd64.deb | head -n 1))"

# Where make pool-deb puts the packages of the pool; POOL_DEB=folder for others.
POOL_DEBS = $${AZURE_PROXY_AGENT_POOL_DEB:-$(abspath $(or $(CARGO_TARGET_DIR),pool/target))/pool-deb}

POOL_RELEASE = $(or $(CARGO_TARGET_DIR),pool/target)/release

.PHONY: help setup build demo test soak conformance bench bench-pool lint doc fuzz pool-demo pool-test pool-storm pool-deb pool-vm-test changelog release vm vm-test sru-test sru-attest sru-report deb install deb-check tarball ci clean root

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' Makefile

setup: ## Install the Debian packages that build and tests need (root)
	@.ci/install build demo test

build: ## Both daemons, optimized: target/release/azure-proxy-agent and azure-proxy-agent-minimal
	@.ci/install build
	$(CARGO) build --release --locked -p runtime-smol -p runtime-blocking --bins

demo: ## The agent at work, with real eBPF and a simulated Azure host (root); AGENT=minimal for the other runtime
	@testdata/demo/run $(AGENT)

test: root ## Every test: unit, fixtures, simulation, kernel, end to end (root)
	@.ci/install build demo test
	@rm -f $(OUTPUT)
	.ci/keep $(OUTPUT) $(CARGO) test --workspace --exclude sandbox --locked --features $(TEST_FEATURES)
	@# End to end, with the daemons as they are: built after the line above, which makes others in the same place.
	$(CARGO) build --workspace --locked
	.ci/keep $(OUTPUT) $(CARGO) test -p sandbox --locked

conformance: ## docs/conformance.md: which test shows which number of the specification; after make test
	$(CARGO) run --quiet --locked -p conformance -- $(CHECK) $(OUTPUT)

soak: root ## Both daemons killed, upgraded, and given every fault, ten minutes each; TIME=60: a minute (root)
	@.ci/install build test
	$(CARGO) build --release --locked -p runtime-smol -p runtime-blocking --bins
	AZURE_PROXY_AGENT_BIN_DIR="$$(cd "$${CARGO_TARGET_DIR:-target}" && pwd)/release" SOAK=$(if $(filter-out 0,$(TIME)),$(TIME),600) \
	    $(CARGO) test -p sandbox --locked --test upgrade --test soak -- --test-threads 1 --nocapture

bench: root ## CPU per request and memory, against a relay, nginx and HAProxy (root); BENCH=--quick for a short one
	@.ci/install build bench
	$(CARGO) build --release --locked -p runtime-smol -p runtime-blocking -p sandbox --bins
	$(CARGO) build --release --locked -p azure-proxy-agent-core --example rules_bench
	testdata/bench/bench --before previous $(BENCH)

lint: ## Format and clippy
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --all-features --locked -- -D warnings -D clippy::incompatible_msrv

doc: ## The API documentation: target/doc
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --all-features --no-deps --document-private-items --locked

fuzz: ## Build the fuzz targets, and with TIME=60 run each for 60 seconds
	@.ci/install build fuzz
	fuzz/run $(TIME)

pool-demo: ## A pool with a controller and two machines with real agents, to play with; TOUR=1: it shows itself (root)
	@TOUR=$(TOUR) pool/fleet/demo

bench-pool: ## 10,000 simulated agents against a controller on SQLite, and two on PostgreSQL; BENCH=--quick for a short one
	@.ci/install pool
	$(CARGO) build --release --locked --manifest-path pool/Cargo.toml -p azure-proxy-agent-pool -p pool-bench
	POSTGRES_OPTIONS='-c fsync=on' pool/with-postgres $(POOL_RELEASE)/pool-bench --controller $(POOL_RELEASE)/azure-proxy-agent-pool $(BENCH)

pool-test: root ## The pool (update control for fleets): format, clippy, tests on SQLite, PostgreSQL, with real agents, in Chromium (root)
	@.ci/install build pool
	$(CARGO) fmt --all --check --manifest-path pool/Cargo.toml
	$(CARGO) clippy --all-targets --locked --manifest-path pool/Cargo.toml -- -D warnings
	@# The agents of pool/fleet; after make test it is there already.
	$(CARGO) build --workspace --locked
	pool/with-postgres $(CARGO) test --locked --manifest-path pool/Cargo.toml
	$(CARGO) build --locked --manifest-path pool/Cargo.toml --bins
	pool/controller/tests/page/test_page.py $(or $(CARGO_TARGET_DIR),pool/target)/debug/azure-proxy-agent-pool

pool-storm: root ## Controllers, updaters and agents of a pool killed for TIME=300 seconds, on SQLite, then on PostgreSQL; SEED= (root)
	@.ci/install build pool
	$(CARGO) build --workspace --locked
	$(CARGO) build --locked --manifest-path pool/Cargo.toml --bins
	POOL_STORM=$(if $(filter-out 0,$(TIME)),$(TIME),300) $(if $(SEED),POOL_STORM_SEED=$(SEED)) pool/with-postgres \
	    $(CARGO) test --locked --manifest-path pool/Cargo.toml -p fleet --test fleet -- storm --nocapture --test-threads 1

tarball: ## For images without a package manager: target/tarball; AGENT=minimal for the other daemon
	@.ci/install build
	debian/tarball $(AGENT)

deb-check: root ## The packages of make deb: installed, upgraded, removed in a clean root; lintian; built again elsewhere (root)
	@.ci/install build deb
	@# Not the .changes: it has no place for overrides (debian/source/lintian-overrides).
	lintian --allow-root --fail-on error,warning "$(TARGET)"/deb/*.dsc "$(TARGET)"/deb/*.deb
	debian/check-install "$(TARGET)/deb"
	AZURE_PROXY_AGENT_DEB="$(TARGET)/deb" debian/check-reproducible

pool-deb: ## Debian packages of the pool, controller and updater, from the last commit: pool/target/pool-deb, or DEB_OUT=folder; ARCH=arm64
	@.ci/install build deb pool-deb
	AZURE_PROXY_AGENT_POOL_DEB="$(or $(DEB_OUT),$(POOL_DEBS))" \
	    DEB_BUILD_OPTIONS="$${DEB_BUILD_OPTIONS-nocheck}" pool/debian/build $(ARCH)

deb: ## Debian packages from the last commit: target/deb, or DEB_OUT=folder; ARCH=arm64 for the other architecture
	@.ci/install build deb
	AZURE_PROXY_AGENT_DEB="$(or $(DEB_OUT),$${AZURE_PROXY_AGENT_DEB:-$(TARGET)/deb})" DEB_BUILD_OPTIONS="$${DEB_BUILD_OPTIONS-nocheck}" \
	    debian/build $(ARCH)

install: ## What make build made, under DESTDIR=; AGENT=minimal for the other daemon; starts nothing
	debian/stage $(AGENT) "$${CARGO_TARGET_DIR:-target}/release" "$(DESTDIR)/" $(PREFIX)

vm: root ## A shell in a machine of its own that has the package; KERNEL=5.10|6.1|6.12 [AGENT=minimal] [DEB=] [CPUS=] [MEMORY=] (root)
	@.ci/install build vm
	$(CARGO) build --release --locked -p azure-host-sim --bins
	$(if $(DEB),,@$(MAKE) --no-print-directory deb)
	@$(VM) shell $(VM_OPTIONS)

pool-vm-test: root ## An update by real dpkg and systemd, asked for by a real pool, in such a machine; [KERNEL=] [DEB=] [POOL_DEB=] (root)
	@.ci/install build vm
	$(CARGO) build --release --locked -p azure-host-sim --bins
	$(if $(DEB),,@$(MAKE) --no-print-directory deb)
	$(if $(POOL_DEB),,@$(MAKE) --no-print-directory pool-deb)
	@$(VM) test $(VM_OPTIONS) --results "$(or $(RESULTS),$(TARGET)/vm-results)" --tests pool/debian/tests --cases pool-update \
	    $$(for p in pool updater; do ls -t "$(or $(POOL_DEB),$(POOL_DEBS))"/azure-proxy-agent-$${p}_*_amd64.deb | head -n 1 | sed 's/^/--also /'; done)

vm-test: root ## debian/tests in such machines; CASES='reboot purge' KERNEL= [AGENT=minimal] [DEB=] [OLD=] [RESULTS=] [CPUS=] [MEMORY=] [JOBS=2] (root)
	@.ci/install build vm
	$(CARGO) build --release --locked -p azure-host-sim --bins
	$(if $(DEB),,@$(MAKE) --no-print-directory deb)
	@$(VM) test $(VM_OPTIONS) $(if $(JOBS),--jobs $(JOBS)) --results "$(or $(RESULTS),$(TARGET)/vm-results)" --cases '$(CASES)'

changelog: ## Every change in CHANGELOG.md names the tests that cover it
	@$(SRU) gate

release: ## VERSION=1.2.3 [KEY=gpg key] [DRY=1]: version, changelogs, tag, source, SBOM, checksums; publishes nothing
	@$(SRU) release $(if $(VERSION),'$(VERSION)',$(error which? make release VERSION=1.2.3)) \
	    --out "$(TARGET)/release-$(VERSION)" $(if $(KEY),--key '$(KEY)') $(if $(DRY),--dry-run)

sru-test: root ## OLD=tag or .deb [NEW=.deb] [ONLY=regex] [AGAIN=1]: the update's cases on every machine that boots here (root)
	@$(SRU) test $(if $(OLD),'$(OLD)',$(error from which version? make sru-test OLD=v0.1.0)) $(if $(NEW),'$(NEW)') \
	    --results "$(TARGET)/sru" $(if $(ONLY),--only '$(ONLY)') $(if $(AGAIN),--again)

sru-attest: ## STEP= OUTCOME=passed|failed BY='Name <mail>' [LINK=]: what others tested elsewhere (docs/releasing.md)
	@$(SRU) attest '$(STEP)' '$(OUTCOME)' '$(BY)' '$(LINK)' --results "$(TARGET)/sru"

sru-report: ## The text of the tracking bug, from the results; refuses if it would not be true
	@$(SRU) report --results "$(TARGET)/sru"

ci: ## What CI does: everything but the bench (root)
	.ci/run

clean: ## Remove what was built
	$(CARGO) clean
	$(CARGO) clean --manifest-path fuzz/Cargo.toml

root:
	@[ "$$(id -u)" = 0 ] || { \
	    echo "This needs root: eBPF programs are loaded, and network namespaces and cgroups made. Nothing outside them is touched."; \
	    echo "  sudo env PATH=\"\$$PATH\" make $(MAKECMDGOALS)"; \
	    echo "Without root: cargo test --locked -p azure-proxy-agent-core --features replay"; exit 1; }
