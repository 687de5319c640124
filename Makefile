# SPDX-License-Identifier: GPL-2.0-only
# Builds dm-thin-pool.ko for the kernel whose build directory is KDIR, and installs it there.
KDIR ?= /lib/modules/$(shell uname -r)/build
RELEASE = $(shell cat $(KDIR)/include/config/kernel.release)
# Comes before the kernel's own modules.
UPDATES = /lib/modules/$(RELEASE)/updates
PREFIX ?= /usr/local

all: modules

modules: check-kernel
	$(MAKE) -C $(KDIR) M=$(CURDIR) modules

modules_install: check-kernel
	$(MAKE) -C $(KDIR) M=$(CURDIR) INSTALL_MOD_DIR=updates modules_install

# The module where modprobe looks first, and in the initramfs; the tools for a host.
install: modules install-tools
	$(MAKE) modules_install
	./scripts/thin-module refresh $(RELEASE)
	@$(MAKE) --no-print-directory check-install

uninstall: uninstall-tools
	rm -f $(UPDATES)/dm-thin-pool.ko $(UPDATES)/dm-thin-pool.ko.[gxz]*
	-rmdir --ignore-fail-on-non-empty $(UPDATES)
	./scripts/thin-module refresh $(RELEASE)
	@echo "modprobe takes: $$(modprobe -S $(RELEASE) --show-depends dm-thin-pool | tail -n 1)"
	@echo "A module that is loaded stays so until it is removed (modprobe -r dm-thin-pool) or the machine boots."

check-install:
	@found=$$(modprobe -S $(RELEASE) --show-depends dm-thin-pool | tail -n 1); \
	case "$$found" in \
	*$(UPDATES)/dm-thin-pool.ko*) echo "modprobe takes: $$found" ;; \
	*) echo "error: modprobe would take '$$found' and not the module in $(UPDATES); see /etc/depmod.d" >&2; exit 1 ;; \
	esac
	@echo "A module that is loaded stays so: 'thin-module' tells which one runs, and changes it."

install-tools:
	install -D -m 755 -t $(DESTDIR)$(PREFIX)/sbin scripts/thin-module scripts/thin-top
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/man/man8 docs/man/thin-module.8 docs/man/thin-top.8

uninstall-tools:
	rm -f $(foreach tool,thin-module thin-top,\
		$(DESTDIR)$(PREFIX)/sbin/$(tool) $(DESTDIR)$(PREFIX)/share/man/man8/$(tool).8)

check-style:
	./scripts/check-style

# For an editor's language server; of the build for User Mode Linux.
compile_commands.json:
	./scripts/check-style commands

clean:
	$(MAKE) -C $(KDIR) M=$(CURDIR) clean

# One sentence beats a page of unresolved symbols.
check-kernel:
	@conf=$(KDIR)/include/config/auto.conf; \
	test -e "$$conf" || { echo "error: $(KDIR) is not a configured kernel build directory (set KDIR)" >&2; exit 1; }; \
	! grep -q '^CONFIG_DM_THIN_PROVISIONING=y' "$$conf" || \
		{ echo "error: the kernel of $(KDIR) has dm-thin-pool built in (CONFIG_DM_THIN_PROVISIONING=y), which nothing can replace" >&2; exit 1; }; \
	grep -q '^CONFIG_BLK_DEV_DM=[ym]' "$$conf" || \
		{ echo "error: the kernel of $(KDIR) lacks the device mapper (CONFIG_BLK_DEV_DM)" >&2; exit 1; }; \
	grep -q '^CONFIG_DM_BUFIO=[ym]' "$$conf" || \
		{ echo "error: the kernel of $(KDIR) lacks dm-bufio (CONFIG_DM_BUFIO, a hidden symbol: enable a target that selects it, such as DM_SNAPSHOT)" >&2; exit 1; }

.PHONY: all modules modules_install install uninstall install-tools uninstall-tools check-install check-style compile_commands.json clean check-kernel
