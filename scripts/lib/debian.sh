# shellcheck shell=bash
# debian.sh - back end of scripts/vm for Debian's own kernels, in QEMU.
#
# The kernel is started as the ELF file that Debian packed, with a small initramfs
# (scripts/lib/initramfs-init) that mounts: the guest root, an uncompressed image of the
# directory of rootfs.sh; and by 9p the run's directory, the checkout, the kernel's modules and
# what --share and --out name. The contract stands at the top of scripts/vm.

# shellcheck source=scripts/lib/debian-kernel.sh
. "$SRC/scripts/lib/debian-kernel.sh"
# shellcheck source=scripts/lib/debian-build.sh
. "$SRC/scripts/lib/debian-build.sh"

DEBIAN_HOST_PACKAGES=(qemu-system-x86 erofs-utils kmod cpio xz-utils zstd)
# What the initramfs needs to find its root; modprobe says what these need in turn.
INITRAMFS_MODULES=(virtio_pci virtio_blk virtio_console 9pnet_virtio 9p erofs overlay)
# Seconds in which a KVM that works has long started a kernel. Some machines have one that emulates.
KVM_DEADLINE=5

debian_prepare() {
	need_root
	need_host "${DEBIAN_HOST_PACKAGES[@]}"
	rootfs_prepare
	root_image >/dev/null
	debian_image "$1" >/dev/null
	initramfs "$1" >/dev/null
	accel "$1" >/dev/null
}

# erofs: no decompression, which an emulated processor would be slow at, and in every kernel here.
root_image() {
	local image
	image=$(rootfs_dir).erofs
	[ -e "$image" ] || once root-image make_root_image "$image"
	printf '%s\n' "$image"
}

make_root_image() {
	local image=$1 old
	[ ! -e "$image" ] || return 0
	step "Packing the guest root into an image"
	quietly "$DM_THIN_CACHE/log/root-image.log" mkfs.erofs "$image.new" "$(rootfs_dir)" ||
		die "the guest root could not be packed"
	for old in "${image%/*}"/*.erofs; do
		[ "$old" = "$image" ] || rm -f "$old"
	done
	mv "$image.new" "$image"
}

initramfs() {
	local base key file
	base=$(dirname "$(debian_image "$1")")
	key=$({ cat "$SRC/scripts/lib/initramfs-init"; echo "${INITRAMFS_MODULES[*]}"; } | sha256sum | cut -c1-16)
	file=$base/initramfs-$key
	[ -e "$file" ] || once "debian-initramfs-$1" make_initramfs "$1" "$file"
	printf '%s\n' "$file"
}

make_initramfs() {
	local kernel=$1 file=$2 image release dir deb name word path
	[ ! -e "$file" ] || return 0
	image=$(debian_image "$kernel")
	release=$(debian_release "$kernel")
	dir=$file.dir
	rm -rf "$dir" "${file%-*}"-*
	mkdir -p "$dir/deb" "$dir/root/bin" "$dir/root/modules"
	deb=$(suite_fetch trixie busybox-static)
	unpack_deb "$deb" "$dir/deb"
	cp "$dir/deb/usr/bin/busybox" "$dir/root/bin/"
	cp "$SRC/scripts/lib/initramfs-init" "$dir/root/init"
	chmod 755 "$dir/root/init"
	for name in "${INITRAMFS_MODULES[@]}"; do
		modprobe -d "$image" -S "$release" --show-depends "$name" ||
			die "kernel $release has no module $name"
	done >"$dir/needs"
	: >"$dir/root/modules.order"
	while read -r word path _; do
		[ "$word" = insmod ] || continue
		name=/modules/${path##*/}
		[ ! -e "$dir/root$name" ] || continue
		cp "$path" "$dir/root$name"
		echo "$name" >>"$dir/root/modules.order"
	done <"$dir/needs"
	( cd "$dir/root" && find . | cpio --quiet -o -H newc -R 0:0 ) >"$file.new"
	rm -rf "$dir"
	mv "$file.new" "$file"
}

# kvm or tcg. KVM is believed only after it has started a kernel in time; the answer holds until the next boot.
accel() {
	local file=$DM_THIN_CACHE/debian/accel boot word=''
	case ${DM_THIN_ACCEL:-} in
	'') ;;
	kvm | tcg) echo "$DM_THIN_ACCEL"; return ;;
	*) die "DM_THIN_ACCEL is kvm or tcg, not '$DM_THIN_ACCEL'" ;;
	esac
	boot=$(cat /proc/sys/kernel/random/boot_id)
	[ "$(sed -n 's/ .*//p' "$file" 2>/dev/null)" = "$boot" ] || once accel probe_kvm "$1" "$boot" "$file"
	word=$(cat "$file")
	printf '%s\n' "${word#* }"
}

probe_kvm() {
	local kernel=$1 boot=$2 file=$3 found=tcg log=$DM_THIN_CACHE/log/kvm-probe.log image
	if [ -w /dev/kvm ]; then
		image=$(debian_image "$kernel")
		: >"$log"
		# In a group of its own, so that the shell's remark on a QEMU that aborts goes to the log as well.
		{
			timeout -k 1 "$KVM_DEADLINE" qemu-system-x86_64 -M pc -accel kvm -cpu host -m 512M \
				-nodefaults -no-user-config -display none -no-reboot \
				-kernel "$image/vmlinux" -initrd "$(initramfs "$kernel")" \
				-append "console=ttyS0 panic=-1 quiet VM_PROBE=kvm-works" \
				-serial "file:$(escaped "$log")" || true
		} </dev/null >>"$log.qemu" 2>&1
		! grep -aq kvm-works "$log" || found=kvm
	fi
	[ "$found" = kvm ] || note "no KVM that works on this machine: the guest's processor is emulated"
	echo "$boot $found" >"$file.new"
	mv "$file.new" "$file"
}

# A tree for /lib/modules/RELEASE with our module at the place that modprobe prefers. Made
# here, since depmod takes an emulated processor many seconds. Hard links, so it costs nothing.
modules_with() {
	local kernel=$1 ko=$2 image release dir
	image=$(debian_image "$kernel")
	release=$(debian_release "$kernel")
	dir=$(dirname "$image")/modules/$(sha256sum <"$ko" | cut -c1-16)
	[ -d "$dir" ] || once "debian-modules-$kernel" make_modules_with "$image" "$release" "$ko" "$dir"
	printf '%s\n' "$dir/lib/modules/$release"
}

make_modules_with() {
	local image=$1 release=$2 ko=$3 dir=$4
	[ ! -d "$dir" ] || return 0
	rm -rf "$dir.new"
	mkdir -p "$dir.new/lib/modules"
	cp -al "$image/lib/modules/$release" "$dir.new/lib/modules/$release"
	mkdir "$dir.new/lib/modules/$release/updates"
	cp "$ko" "$dir.new/lib/modules/$release/updates/dm-thin-pool.ko"
	depmod -b "$dir.new" "$release"
	# A guest may still be using one of these: only those go that are older than any guest's time.
	find "${dir%/*}" -mindepth 1 -maxdepth 1 -mmin +1440 -exec rm -rf {} +
	mv "$dir.new" "$dir"
}

debian_run() {
	local kernel=$1 run=$2 modules out err rc attempt share outdir accel qemu words
	# shellcheck disable=SC1091
	. "$run/settings"
	modules=$(debian_image "$kernel")/lib/modules/$(debian_release "$kernel")
	[ ! -e "$run/module.ko" ] || modules=$(modules_with "$kernel" "$run/module.ko")
	share=$(cat "$run/share")
	outdir=$(cat "$run/out")
	words=(
		console=ttyS0 loglevel=7 panic=-1 oops=panic VM_UDEV=1
		# What an emulated processor would spend seconds on and no test here needs.
		mitigations=off tsc=reliable no_timer_check cryptomgr.notests random.trust_cpu=on
		audit=0 apparmor=0 nokaslr
	)
	# shellcheck disable=SC2206  # words without blanks
	words+=($BOOT)
	accel=$(accel "$kernel")
	[ -z "$COUNT" ] || accel=count
	# An emulated processor may wait long for a real one that others use; that is no fault of the module's.
	[ "$accel" = kvm ] || words+=(rcupdate.rcu_cpu_stall_timeout=100 watchdog_thresh=50)
	qemu=(
		qemu-system-x86_64 -M pc -smp "$SMP" -m "${MEM_MB}M"
		-nodefaults -no-user-config -display none -no-reboot
		-kernel "$(debian_image "$kernel")/vmlinux" -initrd "$(initramfs "$kernel")"
		-append "${words[*]}"
	)
	case $accel in
	kvm) qemu+=(-accel kvm -cpu host) ;;
	# Five-level page tables cost every emulated access that misses.
	tcg) qemu+=(-accel "tcg,thread=multi" -cpu "max,la57=off") ;;
	count) qemu+=(-accel "tcg,thread=single" -icount "shift=0,sleep=off" -cpu "max,la57=off") ;;
	esac
	output_pipe out /dev/stdout
	output_pipe err /dev/stderr
	# shellcheck disable=SC2054  # commas belong to QEMU
	qemu+=(
		-chardev "file,id=console,path=$(escaped "$run/console.log"),append=on" -serial chardev:console
		-drive "file=$(escaped "$(root_image)"),if=none,id=root,format=raw,readonly=on"
		-device virtio-blk-pci,drive=root
		-chardev "file,id=out,path=/dev/fd/$out" -chardev "file,id=err,path=/dev/fd/$err"
		-device virtio-serial-pci
		-device virtserialport,chardev=out,name=vm.stdout
		-device virtserialport,chardev=err,name=vm.stderr
	)
	show_host src "$SRC" on
	show_host run "$run" off
	show_host modules "$modules" on
	[ -z "$share" ] || show_host share "$share" on
	[ -z "$outdir" ] || show_host out "$outdir" off
	for attempt in 1 2 3; do
		rc=0
		run_guest "$TIMEOUT" "${qemu[@]}" </dev/null >>"$run/qemu.log" 2>&1 || rc=$?
		if [ "$attempt" -eq 3 ] || ! emulator_slipped "$run/console.log"; then
			break
		fi
		note "the emulator lost an instruction that the kernel patched while booting; booting again"
		mv "$run/console.log" "$run/console.log.$attempt"
	done
	output_drain
	# What QEMU itself has to say explains a guest that did not start.
	[ ! -s "$run/qemu.log" ] || [ "$rc" -eq 0 ] || [ "$rc" -eq 124 ] || cat "$run/qemu.log" >>"$run/console.log"
	return "$rc"
}

# QEMU's threads now and then leave one processor with a breakpoint by which another patched the
# kernel. Nobody owns it, so the kernel dies. Before the command began nothing is lost by that.
emulator_slipped() {
	grep -aq 'Oops: int3:' "$1" && ! grep -aq 'init: running the command' "$1"
}

# show_host TAG DIR READONLY: one more directory for QEMU's command line, which debian_run is making.
show_host() {
	# shellcheck disable=SC2054  # commas belong to QEMU
	qemu+=(
		-fsdev "local,id=$1,path=$(escaped "$2"),security_model=none,multidevs=remap,readonly=$3"
		-device "virtio-9p-pci,fsdev=$1,mount_tag=$1"
	)
}

# A comma ends a value on QEMU's command line unless it is doubled.
escaped() { printf '%s\n' "${1//,/,,}"; }
