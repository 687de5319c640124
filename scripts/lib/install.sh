# shellcheck shell=bash
# install.sh - the packages on a whole machine: installed, upgraded, broken, removed, booted after each.
#
# Sourced after common.sh.
#
#   install_test KERNEL     6.1, 6.12 or latest: two kernels of that suite; the last line is 'N passed, N failed'
#
# The machine's root file system is on a thin volume of LVM. What changes it happens at native speed in
# a chroot in a User Mode Linux guest (tests/install/disk says how); then the machine boots in QEMU with its own
# kernel and initramfs, and says what runs (tests/install/proof).

INSTALL_BOOT_LIMIT=420

# The distribution that the machine runs, and where its two kernels come from.
install_release() {
	case $1 in
	6.1) echo bookworm ;;
	*) echo trixie ;;
	esac
}

# Everything that a host with its root on LVM and DKMS has, but for the kernel. Kernels' own dependencies
# are here, since the machine's apt sees nothing but the kernels.
install_packages() {
	printf '%s\n' systemd-sysv udev kmod lvm2 thin-provisioning-tools dmsetup e2fsprogs initramfs-tools lz4 \
		dkms gcc make libc6-dev openssl python3 linux-base pahole
	case $1 in
	6.1) printf '%s\n' gcc-12 libelf1 libssl3 ;;
	*) printf '%s\n' gcc-14 gcc-14-for-host libelf1t64 libssl3t64 ;;
	esac
}

# The last two kernels of the suite.
install_kernels() {
	suite_apt "$(debian_suite "$1")" apt-cache pkgnames linux-image- |
		sed -nE 's/^linux-image-([0-9]+\.[0-9]+\.[0-9]+[-+.0-9a-z]*-amd64)$/\1/p' |
		grep -vE -- '-(cloud|rt)-amd64$' | grep -E "^$(install_version "$1")" | sort -V | tail -n 2
}

# The suite of 6.1 has newer ones as well.
install_version() {
	case $1 in
	latest) echo '[0-9]' ;;
	*) echo "${1//./\\.}\." ;;
	esac
}

install_root() {
	local kernel=$1 root wanted
	mapfile -t wanted < <(install_packages "$kernel")
	root=$DM_THIN_CACHE/rootfs/install-$(install_release "$kernel")-$(printf '%s\n' "${wanted[@]}" | sha256sum | cut -c1-8)
	[ -d "$root" ] || once "${root##*/}" make_install_root "$root" "$(install_release "$kernel")" "${wanted[@]}"
	printf '%s\n' "$root"
}

make_install_root() {
	[ -d "$1" ] || debian_root "$@"
}

# A repository with the two kernels and with the packages of this checkout.
install_repository() {
	local dir=$1 kernel=$2 suite release package root
	suite=$(debian_suite "$kernel")
	mkdir -p "$dir"
	# Newer kernels want a newer one than their distribution has.
	cp -u "$(suite_fetch "$suite" linux-base)" "$dir/"
	for release in "${releases[@]}"; do
		for package in $(package_closure "$suite" "linux-image-$release" 'linux-(image|binary|modules|base)-[0-9].*') "linux-image-$release" \
			$(package_closure "$suite" "linux-headers-$release" 'linux-((headers|kbuild|base)-[0-9].*|compiler-gcc.*)') "linux-headers-$release"; do
			cp -u "$(suite_fetch "$suite" "$package")" "$dir/"
		done
	done
	cp "$packages"/*.deb "$dir/"
	root=$(package_root)
	# shellcheck disable=SC2016  # expanded by the inner shell
	quietly "$DM_THIN_CACHE/log/install-repository.log" unshare --mount bash -euc '
		mount --bind "$2" "$1/mnt"
		chroot "$1" sh -c "cd /mnt && dpkg-scanpackages --multiversion . >Packages"
	' install_repository "$root" "$dir" || die "the repository of kernels could not be made"
	printf 'deb [trusted=yes] file:/repo ./\n' >"$dir/sources.list"
}

# One step on the disk.
install_step() {
	"$SRC/scripts/vm" --kernel uml --mem 3G --timeout 900 --share "$base" --out "$work" -- \
		tests/install/disk "$@"
}

# The firmware's memory, with the machine's own key among those that it trusts. Made by Debian's tool for it, in a root of its own.
install_trust() {
	local root=$DM_THIN_CACHE/debian/root/firmware-trixie
	[ -d "$root" ] || once "${root##*/}" make_install_root "$root" trixie ovmf python3-virt-firmware
	firmware=$work/firmware
	mkdir -p "$firmware"
	cp "$root/usr/share/OVMF/OVMF_CODE_4M.fd" "$root/usr/share/OVMF/OVMF_VARS_4M.fd" "$firmware/"
	{
		echo '-----BEGIN CERTIFICATE-----'
		base64 -w 64 "$work/boot/mok.pub"
		echo '-----END CERTIFICATE-----'
	} >"$firmware/key.pem"
	# shellcheck disable=SC2016  # expanded by the inner shell
	quietly "$DM_THIN_CACHE/log/install-firmware.log" unshare --mount bash -euc '
		mount --bind "$2" "$1/mnt"
		chroot "$1" virt-fw-vars -i /mnt/OVMF_VARS_4M.fd -o /mnt/vars --add-db "$(cat /proc/sys/kernel/random/uuid)" /mnt/key.pem
	' install_trust "$root" "$firmware" || die "the key could not be given to the firmware"
}

# Boot the machine with one of its kernels; what it said is in $work/said. With $firmware set, by that.
install_boot() {
	local release=$1 qemu accel rc=0
	shift
	rm -f "$work/vmlinux" "$work/console"
	if [ -n "$firmware" ]; then
		cp "$work/boot/vmlinuz-$release" "$work/vmlinux"
		qemu=(
			-drive "if=pflash,unit=0,format=raw,readonly=on,file=$(escaped "$firmware/OVMF_CODE_4M.fd")"
			-drive "if=pflash,unit=1,format=raw,file=$(escaped "$firmware/vars")"
		)
	else
		extract_kernel "$work/boot/vmlinuz-$release" "$work/vmlinux"
		qemu=()
	fi
	qemu=(
		qemu-system-x86_64 -M pc -smp 2 -m 2G -nodefaults -no-user-config -display none -no-reboot "${qemu[@]}"
		-kernel "$work/vmlinux" -initrd "$work/boot/initrd.img-$release"
		-drive "file=$(escaped "$work/disk"),if=virtio,format=raw,cache=unsafe"
		-serial "file:$(escaped "$work/console")"
		-append "root=/dev/mapper/host-root ro console=ttyS0 panic=-1 mitigations=off tsc=reliable no_timer_check cryptomgr.notests random.trust_cpu=on $*"
	)
	accel=$(accel "$kernel")
	case $accel in
	kvm) qemu+=(-accel kvm -cpu host) ;;
	tcg) qemu+=(-accel "tcg,thread=multi" -cpu "max,la57=off") ;;
	esac
	run_guest "$INSTALL_BOOT_LIMIT" "${qemu[@]}" </dev/null >>"$work/qemu.log" 2>&1 || rc=$?
	tr -d '\r' <"$work/console" | sed -n 's/^.*PROOF //p' >"$work/said"
	cat "$work/said"
	return "$rc"
}

passed=0 failed=0 firmware=''

# count NAME STATUS WHY: one more result, with the end of the console if it is a bad one.
count() {
	if [ "$2" -eq 0 ]; then
		passed=$((passed + 1))
		echo "ok   $1"
	else
		failed=$((failed + 1))
		echo "FAIL $1: $3"
		tail -n 30 "$work/console"
	fi
}

# expect NAME LINE...: each of the lines, an extended regular expression, was said. A + stands for itself.
expect() {
	local name=$1 line missing=()
	shift
	for line in "$@" 'root /dev/mapper/host-root thin' 'pool rw .*' 'data good' 'data written' end; do
		grep -qxE -- "${line//+/\\+}" "$work/said" || missing+=("$line")
	done
	count "$name" "${#missing[@]}" "not said: $(printf "'%s' " "${missing[@]}")"
}

# The README's first commands, on the newest kernel, which is also User Mode Linux's.
install_walk() {
	local tree rc=0
	tree=$(uml_version_dir)
	: >"$work/console"
	"$SRC/scripts/vm" --kernel uml --in-tree --mem 3G --timeout 500 --share "$(install_root latest)" -- \
		tests/install/walk "$tree" "$(uml_build_dir uml)" || rc=$?
	count "from the README to a thin volume" "$rc" "the commands ended with status $rc"
}

install_test() {
	local kernel=$1 releases version base packages work old new rc
	need_root
	mapfile -t releases < <(install_kernels "$kernel")
	[ "${#releases[@]}" -eq 2 ] || die "$(debian_suite "$kernel") offers no two kernels to upgrade from and to"
	old=${releases[0]} new=${releases[1]}
	version=$(package_version)
	work=$(mktemp -d "$DM_THIN_CACHE/install.XXXXXX")
	packages=$work/packages
	# Expanded now: when the trap is sprung the variable is gone.
	# shellcheck disable=SC2064
	trap "kill_guest; rm -rf $(printf %q "$work")" EXIT
	[ "$kernel" != latest ] || install_walk
	package_build "$packages"
	base=$(install_root "$kernel")
	install_repository "$work/repo" "$kernel"
	truncate -s 5G "$work/disk"

	step "A machine with its root file system on a thin volume, $old and the packages"
	install_step make
	install_step install "linux-image-$old" "linux-headers-$old" dm-thin-dkms dm-thin-tools
	install_step shell "ls /lib/modules/$old/kernel/drivers/md/dm-thin-pool.ko* /lib/modules/$old/updates/dkms/dm-thin-pool.ko*"
	install_boot "$old" || true
	expect "$old boots from a thin volume on this module" "kernel $old" "loaded dm-thin $version" \
		"running: dm-thin $version; next: dm-thin $version .*"

	step "apt upgrades the kernel to $new"
	install_step install "linux-image-$new" "linux-headers-$new"
	install_boot "$new" || true
	expect "$new, installed by apt, boots on this module" "kernel $new" "loaded dm-thin $version"

	step "Only signed modules are loaded"
	install_boot "$new" module.sig_enforce=1 || true
	rc=0
	grep -q 'module with unavailable key is rejected' "$work/console" && ! grep -qx end "$work/said" || rc=$?
	count "no module without a key that is trusted" "$rc" "it was not refused"
	install_trust
	install_boot "$new" module.sig_enforce=1 || true
	firmware=''
	expect "DKMS's signature is believed where its key is trusted" "kernel $new" "loaded dm-thin $version" "taint [0-9]* enforce Y"

	step "The module of $old is lost, and cannot be built again"
	install_step shell "echo '#error broken' >>/usr/src/dm-thin-$version/dm-thin.c
		dkms remove dm-thin/$version -k $old
		if dkms install dm-thin/$version -k $old; then exit 1; fi"
	install_boot "$old" || true
	expect "$old boots on the kernel's own module when no other can be built" "kernel $old" "loaded stock, .*"

	step "The packages are removed"
	install_step remove dm-thin-dkms
	install_boot "$new" || true
	expect "$new boots on the kernel's own module, with all data" "kernel $new" "loaded stock, .*"
	echo "$passed passed, $failed failed"
	[ "$failed" -eq 0 ]
}
