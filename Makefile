# SPDX-License-Identifier: GPL-2.0-only
# Builds dm-thin-pool.ko for the kernel whose build directory is KDIR.
KDIR ?= /lib/modules/$(shell uname -r)/build

all: modules

modules: check-kernel
	$(MAKE) -C $(KDIR) M=$(CURDIR) modules

modules_install: check-kernel
	$(MAKE) -C $(KDIR) M=$(CURDIR) INSTALL_MOD_DIR=updates modules_install

clean:
	$(MAKE) -C $(KDIR) M=$(CURDIR) clean

# One sentence beats a page of unresolved symbols.
check-kernel:
	@conf=$(KDIR)/include/config/auto.conf; \
	test -e "$$conf" || { echo "error: $(KDIR) is not a configured kernel build directory (set KDIR)" >&2; exit 1; }; \
	grep -q '^CONFIG_BLK_DEV_DM=[ym]' "$$conf" || \
		{ echo "error: the kernel of $(KDIR) lacks the device mapper (CONFIG_BLK_DEV_DM)" >&2; exit 1; }; \
	grep -q '^CONFIG_DM_BUFIO=[ym]' "$$conf" || \
		{ echo "error: the kernel of $(KDIR) lacks dm-bufio (CONFIG_DM_BUFIO, a hidden symbol: enable a target that selects it, such as DM_SNAPSHOT)" >&2; exit 1; }

.PHONY: all modules modules_install clean check-kernel
