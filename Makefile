# `make demo` shows Bulkhead at work on a fresh machine; `make test` tests everything. `make help` lists the rest.

CARGO ?= cargo
OUT := target/release
TARGET := x86_64-unknown-linux-gnu
# Static: the agent has no libraries in its guest, and the others start with fewer pages of memory.
STATIC := RUSTFLAGS='-C target-feature=+crt-static' $(CARGO) build --quiet --locked --target $(TARGET) --target-dir target/static
# `bulkhead` and `bulkhead-oci` are programs of one package.
PROGRAMS := bulkhead bulkhead-oci bulkhead-vmm containerd-shim-bulkhead-v2
PREFIX ?= /usr

# gcc and make: crates that hold C; the kernel's own are named in guest-kernel/build.sh; cpio: the guest's RAM disk;
# e2fsprogs: writable layers; erofs-utils, strace and busybox: the tests and their images; browser: the tests of a bench's page; engines: who use the runtime in the tests;
# qemu, crun, runc: the benchmark's peers.
PACKAGES := gcc make libc6-dev cpio e2fsprogs
TEST_PACKAGES := erofs-utils strace busybox-static iproute2
BROWSER_PACKAGES := chromium-headless-shell fonts-dejavu-core
ENGINE_PACKAGES := podman buildah docker.io containerd docker-registry runc conmon containernetworking-plugins iptables
BENCH_PACKAGES := qemu-system-x86 crun runc containerd

install_packages = missing=$$(for p in $(1); do dpkg-query -W -f '$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || echo $$p; done); \
	if [ -n "$$missing" ]; then echo "installing:" $$missing; \
	apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $$missing >/dev/null; fi

.PHONY: help build kernel agent programs test fuzz demo bench install packages clean

help:
	@echo 'make demo     install what is missing, build, and run a program of a Debian image in a microVM'
	@echo 'make test     build and run all tests (those that need /dev/kvm are skipped without it, and say so)'
	@echo 'make fuzz     mutate what others say to Bulkhead, FUZZ_RUNS inputs for each target (100000)'
	@echo 'make build    leave bulkhead, bulkhead-oci, bulkhead-vmm, containerd-shim-bulkhead-v2, bulkhead-stamp, bulkhead-scout, vmlinux and the guest agent in $(OUT), ready to run from there'
	@echo 'make bench    print the figures of the README'
	@echo 'make install  copy them to $(PREFIX)/bin and $(PREFIX)/lib/bulkhead (DESTDIR, PREFIX)'
	@echo 'make clean    remove what was built (the kernel stays in its cache)'

build: kernel agent programs

packages:
	@$(call install_packages,$(PACKAGES))

kernel:
	@mkdir -p $(OUT)
	@guest-kernel/build.sh --output $(OUT)/vmlinux

agent: packages
	$(STATIC) --profile agent -p bulkhead-agent
	@mkdir -p $(OUT)
	@agent/pack-initrd.sh target/static/$(TARGET)/agent/bulkhead-agent $(OUT)/bulkhead-initrd.cpio

programs: packages
	$(STATIC) --release -p bulkhead -p bulkhead-vmm -p containerd-shim-bulkhead $(PROGRAMS:%=--bin %)
	@mkdir -p $(OUT)
	$(STATIC) --profile agent -p bulkhead-stamp -p bulkhead-scout
	@for p in $(PROGRAMS); do cp target/static/$(TARGET)/release/$$p $(OUT)/.$$p.new && mv $(OUT)/.$$p.new $(OUT)/$$p; done
	@for p in stamp scout; do cp target/static/$(TARGET)/agent/bulkhead-$$p $(OUT)/.$$p.new && mv $(OUT)/.$$p.new $(OUT)/bulkhead-$$p; done

test: build
	@$(call install_packages,$(TEST_PACKAGES) $(ENGINE_PACKAGES) $(BROWSER_PACKAGES) crun)
	BULKHEAD_VMM=$(CURDIR)/$(OUT)/bulkhead-vmm BULKHEAD_KERNEL=$(CURDIR)/$(OUT)/vmlinux BULKHEAD_INITRD=$(CURDIR)/$(OUT)/bulkhead-initrd.cpio \
	$(CARGO) test --locked --workspace --no-fail-fast

fuzz:
	@$(call install_packages,gcc g++ libc6-dev)
	@tests/fuzz/run.sh

demo: build
	@$(call install_packages,$(TEST_PACKAGES))
	@tests/demo.sh

bench: build
	@$(call install_packages,$(TEST_PACKAGES) $(BENCH_PACKAGES))
	$(CARGO) run --quiet --locked --release -p bulkhead-tests --bin bench

install:
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/lib/bulkhead
	install -m 755 $(OUT)/bulkhead $(OUT)/bulkhead-oci $(OUT)/containerd-shim-bulkhead-v2 $(DESTDIR)$(PREFIX)/bin/
	ln -sf containerd-shim-bulkhead-v2 $(DESTDIR)$(PREFIX)/bin/containerd-shim-bulkhead-host-v2
	install -m 755 $(OUT)/bulkhead-vmm $(OUT)/bulkhead-stamp $(OUT)/bulkhead-scout $(DESTDIR)$(PREFIX)/lib/bulkhead/
	install -m 644 $(OUT)/vmlinux $(OUT)/bulkhead-initrd.cpio $(DESTDIR)$(PREFIX)/lib/bulkhead/

clean:
	$(CARGO) clean
