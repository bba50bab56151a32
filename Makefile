# Everything that people and CI run. `make demo` and `make test` work on a fresh
# Debian machine with Go, git and make; they install the rest themselves.

# That of a tag, or of the changelog and the commit on the way there.
RELEASED := $(shell sed -n 's/^\#\# \([0-9][0-9.]*\).*/\1/p' CHANGELOG.md | head -n 1)
VERSION  ?= $(or $(shell git describe --exact-match --match 'v*' 2>/dev/null | sed 's/^v//'),$(RELEASED)~$(shell TZ=UTC git log -1 --format=git%cd.%h --date=format-local:%Y%m%d%H%M%S 2>/dev/null))
LDFLAGS  := -s -w -X main.version=$(VERSION)
# The latest tag before this commit, or else the state in which the plan, the peers and health were parted.
PREVIOUS ?= $(or $(shell git describe --abbrev=0 --match 'v*' HEAD^ 2>/dev/null),7e18bbb)
TRIALFLAGS ?= # -page docs/packages.md
FUZZTIME ?= 30s
CHAOSTIME ?= 60s
SOAKTIME ?= 10m
CHURNTIME ?= 10m
SOAKFLAGS ?= # -out docs, -switch 15s
ENGINES ?= user tcx xdp
MATRIXTESTS ?= .
KERNELFLAGS ?= # -only 6.1.
BENCHFLAGS ?= # -rounds 5, -only "meshd,tinc", -out docs
COVERAGE := $(CURDIR)/coverage

# The same sources give the same objects in each checkout, so that a fresh clone finds them in Go's cache.
export GOFLAGS ?= -trimpath

STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2

# RIVAL installs a program of others. With another Go, where its newest version asks for one.
RIVAL := GOBIN=$(CURDIR)/bin/rivals GOTOOLCHAIN=auto CGO_ENABLED=0 go install

# command:package, for what the tests and the demo use besides Go
TOOLS := ip:iproute2 ping:iputils-ping traceroute:traceroute setpriv:util-linux prlimit:util-linux sysctl:procps nft:nftables iptables:iptables conntrack:conntrack ethtool:ethtool strace:strace curl:curl jq:jq gcc:gcc tmux:tmux git:git clang-14:clang-14 llvm-strip-14:llvm-14 /usr/include/bpf/bpf_helpers.h:libbpf-dev /usr/lib/cni/bridge:containernetworking-plugins tcpdump:tcpdump nc:netcat-openbsd dnsmasq:dnsmasq-base wg:wireguard-tools ssh:openssh-client /usr/sbin/sshd:openssh-server
SUDO  := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

# $(call need,command:package ...) installs the packages whose commands are not there.
define need
@missing=; for tool in $(1); do \
  PATH=$$PATH:/usr/sbin:/sbin command -v $${tool%%:*} >/dev/null || missing="$$missing $${tool##*:}"; \
done; \
[ -z "$$missing" ] || { $(SUDO) apt-get update -qq && \
  DEBIAN_FRONTEND=noninteractive $(SUDO) apt-get install -y -qq --no-install-recommends libc6-dev $$missing; }
endef

.PHONY: build package image release lint-package test-package test-ansible trial-base previous demo screenshots test test-matrix test-binaries test-arm test-kernels bench-kernels guard-kernels kernel-machine rivals engines monitors reliability bench chaos hostile scale soak fuzz lint deps lint-deps trial-deps clean

build: # static binaries in bin/
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o bin/ ./cmd/...

package: deps # .deb and .rpm for three architectures, checksums, notes and an SBOM in dist/
	for target in amd64 arm64 arm; do \
	  CGO_ENABLED=0 GOARCH=$$target GOARM=7 go build -trimpath -buildvcs=false -ldflags '$(LDFLAGS) -buildid=' -o bin/$$target/ ./cmd/... || exit 1; \
	done
	packaging/package.sh '$(VERSION)'

image: # for container runtimes, from what `package` has built, one archive for each architecture
	go run ./tools/image -version '$(VERSION)' -at "$$(git log -1 --format=%ct)"
	sed 's/image: meshd:.*/image: meshd:$(subst ~,-,$(VERSION))/' packaging/kubernetes/meshd.yaml >'dist/meshd-$(VERSION).kubernetes.yaml'
	cd dist && rm -f SHA256SUMS && sha256sum -- * >SHA256SUMS

release: # what `package` and `image` build, if this commit is the release that its tag says
	packaging/release.sh '$(VERSION)'
	$(MAKE) package VERSION='$(VERSION)'
	$(MAKE) image VERSION='$(VERSION)'
	cd dist && sha256sum --check --quiet SHA256SUMS

lint-package: package lint-deps # what Debian, rpm, mandoc and systemd have to say
	mandoc -T lint -W style packaging/man/* | { ! grep -v -e 'referenced manual not found' -e 'mandoc.db'; }
	lintian --fail-on error,warning --allow-root dist/*_amd64.deb
	rpmlint --config packaging/rpmlint.toml dist/*.x86_64.rpm
	@for unit in meshd meshd-wireguard; do \
	  systemd-analyze security --no-pager --offline=yes --threshold=20 packaging/$$unit.service >bin/security || { cat bin/security; exit 1; }; \
	  tail -n 1 bin/security; \
	done

test-package: package previous trial-base # the packages as people use them, on hosts with a real systemd
	$(SUDO) bin/install -dist dist $(TRIALFLAGS)

test-ansible: package trial-base # the role of docs/ansible.md, against two such hosts
	$(call need,ansible-playbook:ansible-core)
	$(SUDO) bin/install -dist dist -ansible

trial-base: trial-deps # the Debian that test-package installs on; it is kept in /var/tmp/meshd-install
	go build -o bin/install ./tools/install
	$(SUDO) bin/install -prepare

previous: # the version before this one, which test-package downgrades to and upgrades from
	rm -rf bin/previous && mkdir -p bin/previous
	git rev-parse --short '$(PREVIOUS)^{commit}' >bin/previous/commit
	source=$$(mktemp -d) && git archive $(PREVIOUS) | tar -x -C $$source && \
	  cp -r $$source/packaging bin/previous && \
	  (cd $$source && CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags '-s -w -X main.version=0.0' \
	    -o $(CURDIR)/bin/previous/ ./cmd/...); code=$$?; rm -rf $$source; exit $$code

demo: deps build # three hosts on this machine, joined by one mesh.toml
	go build -o bin/demo ./tools/demo
	$(SUDO) bin/demo bin

screenshots: build # pictures of every screen of meshtui, for docs/
	$(call need,Xvfb:xvfb xterm:xterm import:imagemagick /usr/share/fonts/truetype/dejavu/DejaVuSansMono.ttf:fonts-dejavu-core)
	go build -o bin/screenshots ./tools/screenshots
	mkdir -p docs/img
	$(SUDO) bin/screenshots bin docs/img

# $(call tested,arguments of go test) shows what failed and what was slow, and keeps all times. It does not
# vet: `make lint` does.
define tested
MESH_BIN=$(CURDIR)/bin/test MESH_COVERDIR=$(COVERAGE) go test -json -vet=off -timeout 30m $(1) | bin/testlog -timings $(COVERAGE)/timings
endef

# The end-to-end tests take longest and mostly wait, so go test gets them first, and the others beside them.
test: deps test-binaries # everything, with the race detector; namespaces need root
	rm -rf $(COVERAGE) && mkdir $(COVERAGE)
	$(call tested,-race -cover ./internal/e2e ./... -args -test.gocoverdir=$(COVERAGE))
	@echo "coverage, tests and the daemons they started together:"
	@go tool covdata percent -i=$(COVERAGE) | sed 's,example.org/meshd/configs[[:space:]]*,,' | grep -v -e /nstest -e /e2e -e /tools/

test-matrix: deps test-binaries # the end-to-end tests, all of them on each of ENGINES
	rm -rf $(COVERAGE) && mkdir $(COVERAGE)
	for engine in $(ENGINES); do \
	  echo "with the engine $$engine:"; \
	  $(call tested,-count=1 -run '$(MATRIXTESTS)' ./internal/e2e -engine $$engine) || exit 1; \
	done

test-binaries: # what the end-to-end tests start, linked once
	go build -o bin/test/ ./cmd/...
	go build -race -cover -coverpkg=example.org/meshd/... -o bin/test/checked/ ./cmd/...
	go build -o bin/testlog ./tools/testlog

# Rooms that need nothing of a kernel, so that an emulated processor is enough.
ARMROOMS := config mesh plan words tui/cell dataplane/packet dataplane/virtio table probe typed text rate peers health
# They need a TUN; and, under 32 bits, a look-up allocates.
ARMSKIP := ^FuzzKernel|^TestLookupDoesNotAllocate$$$$

test-arm: # unit tests of armv7 and arm64, with the processor emulated
	$(call need,qemu-arm-static:qemu-user-static)
	@mkdir -p bin/arm
	@for arch in arm arm64; do \
	  cpu=$${arch%64} && [ $$arch = arm ] || cpu=aarch64; \
	  for room in $(ARMROOMS); do \
	    echo "$$arch $$room"; \
	    CGO_ENABLED=0 GOARCH=$$arch GOARM=7 go test -c -o bin/arm/$$arch.test ./internal/$$room || exit 1; \
	    (cd internal/$$room && qemu-$$cpu-static $(CURDIR)/bin/arm/$$arch.test -test.short -test.skip '$(strip $(ARMSKIP))') || exit 1; \
	  done; \
	  echo "$$arch dataplane/user, its counters"; \
	  CGO_ENABLED=0 GOARCH=$$arch GOARM=7 go test -c -o bin/arm/$$arch.test ./internal/dataplane/user || exit 1; \
	  qemu-$$cpu-static bin/arm/$$arch.test -test.run '^TestCounters' || exit 1; \
	done

test-kernels: kernel-machine # the kernel's engine and WireGuard on Debian's kernels, in QEMU
	go test -tags modules -c -o bin/e2e.test ./internal/e2e
	go test -c -o bin/kernel.test ./internal/dataplane/kernel
	go test -tags modules -c -o bin/wireguard.test ./internal/wireguard
	go test -c -o bin/user.test ./internal/wireguard/user
	go test -tags modules -c -o bin/seal.test ./internal/seal
	$(SUDO) bin/kernels $(KERNELFLAGS)

bench-kernels: kernel-machine # the instructions that meshd and the kernel's own tunnels take, there
	$(SUDO) bin/kernels -bench $(KERNELFLAGS)

guard-kernels: kernel-machine # one ratio of bench-kernels, which must not get lost
	$(SUDO) bin/kernels -bench -only 6.12. -modes 'vxlan@bridge tcx@bridge' -loads tcp1 -repeats 41

kernel-machine: deps build # the virtual machine, and what measures in it
	$(call need,qemu-system-x86_64:qemu-system-x86 busybox:busybox-static depmod:kmod cpio:cpio)
	CGO_ENABLED=0 go build -o bin/measure ./tools/kernels/measure
	go build -o bin/kernels ./tools/kernels

reliability: deps test-binaries # bring each cause and path change about; write docs/reliability.md and paths.md
	$(SUDO) env MESH_BIN=$(CURDIR)/bin/test go test ./internal/e2e -count 1 -timeout 30m -run TestCausesAreNamed \
	  -args -reliability $(CURDIR)/docs/reliability.md
	$(SUDO) env MESH_BIN=$(CURDIR)/bin/test go test ./internal/e2e -count 1 -timeout 30m -run TestPathChanges \
	  -args -paths $(CURDIR)/docs/paths.md

rivals: # the newest of those that meshd is measured against; of nebula, the newest that can be built
	$(call need,tincd:tinc)
	mkdir -p bin/rivals
	$(RIVAL) golang.zx2c4.com/wireguard@latest && mv bin/rivals/wireguard bin/rivals/wireguard-go
	for version in latest $$(go list -m -versions github.com/slackhq/nebula | tr ' ' '\n' | sort -rV | grep ^v); do \
	  $(RIVAL) github.com/slackhq/nebula/cmd/nebula@$$version github.com/slackhq/nebula/cmd/nebula-cert@$$version && exit; \
	done; exit 1

bench: deps build rivals # what one packet costs, and meshd against what people would use instead
	go test -run '^$$' -bench . -benchmem ./internal/config ./internal/table ./internal/dataplane/... ./internal/masq \
		./internal/filter
	go build -o bin/bench ./tools/bench
	$(SUDO) bin/bench $(BENCHFLAGS)

engines: # Docker and Podman, for the test of docs/docker.md, which is left out without
	$(call need,dockerd:docker.io podman:podman /usr/lib/podman/netavark:netavark runc:runc busybox:busybox-static)

monitors: # Prometheus, for the tests of packaging/monitoring, which are left out without
	$(call need,prometheus:prometheus promtool:prometheus)

chaos: deps test-binaries # random trouble for CHAOSTIME, then each fault by itself; write docs/reliability.md
	MESH_REQUIRE_NETNS=1 go test -count=1 -v -timeout 2h -run '^TestChaos$$' ./internal/e2e -chaos $(CHAOSTIME) $(CHAOSFLAGS)
	MESH_REQUIRE_NETNS=1 MESH_BIN=$(CURDIR)/bin/test go test -count=1 -v -timeout 2h -run '^TestFaults$$' \
	  ./internal/e2e -faults $(CURDIR)/docs/reliability.md

hostile: deps test-binaries # floods and lies of strangers, peers and pods; write docs/security.md
	MESH_REQUIRE_NETNS=1 MESH_BIN=$(CURDIR)/bin/test go test -count=1 -v -timeout 1h -run '^TestAttacks$$' \
	  ./internal/e2e -attacks $(CURDIR)/docs/security.md

scale: deps build # what 10 to 10,000 nodes cost, and 100 real daemons; write docs/scale.md
	go build -o bin/bench ./tools/bench
	$(SUDO) bin/bench -scale -churn $(CHURNTIME) -out docs

soak: deps build # three meshes under checked traffic for SOAKTIME; fails on loss, other bytes, growth, leaks
	go build -o bin/soak ./tools/soak
	$(SUDO) bin/soak -for $(SOAKTIME) $(SOAKFLAGS)

fuzz: # every fuzz target for FUZZTIME each
	@for package in $$(go list ./...); do \
	  for target in $$(go test -list '^Fuzz' $$package | grep '^Fuzz'); do \
	    echo "$$package $$target"; \
	    go test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 1s $$package || exit 1; \
	  done; \
	done

# Lines of Go and Markdown have at most 110 columns, a tab being one, but for what cannot be broken:
# generated files, directives of go generate, rows of a Markdown table.
LINED := git ls-files '*.go' '*.md' ':!*_bpfel.go'

lint: # formatting, lengths of lines, vet on every platform, staticcheck
	@test -z "$$(gofmt -l .)" || { echo "gofmt these:"; gofmt -l .; exit 1; }
	@for target in $$(sed -n 's/^\.PHONY: //p' Makefile); do \
	  grep -q "^$$target:" Makefile || { echo "there is no rule for make $$target"; exit 1; }; \
	done
	@! $(LINED) | LC_ALL=C.UTF-8 xargs grep -nE '^.{111}' | grep -v -e '\.md:[0-9]*:|' -e ':[0-9]*://go:generate '
	go vet ./...
	go vet -tags modules ./internal/e2e ./internal/seal ./internal/wireguard
	GOARCH=arm64 go vet ./...
	GOARCH=arm GOARM=7 go vet ./...
	cd tools/manifest && go vet ./... && go mod tidy -diff
	go run $(STATICCHECK) ./...
	go mod tidy -diff
	go mod verify

deps: # install what is missing; silent when nothing is
	$(call need,$(TOOLS))

lint-deps:
	$(call need,lintian:lintian rpmlint:rpmlint mandoc:mandoc systemd-analyze:systemd)

trial-deps:
	$(call need,debootstrap:debootstrap systemd-nspawn:systemd-container rpm:rpm dpkg-deb:dpkg qemu-arm-static:qemu-user-static)

clean:
	rm -rf bin dist coverage
