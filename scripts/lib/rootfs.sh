# shellcheck shell=bash
# rootfs.sh - the guest's root file system: a trixie directory in the cache, made once by mmdebstrap.
#
# User Mode Linux mounts the directory itself, read-only (hostfs); QEMU gets an image packed
# from it. Nothing may write to it after it was made: guests put an overlay on top.
#
# Functions (common.sh must be sourced first)
#   rootfs_prepare           make the root if the cache lacks it
#   rootfs_dir               print its path (made or not)
#   debian_root DIR SUITE PKG...   make any Debian root (whole or not at all)
#   thin_tools_prepare       make thin_check-0.9, thin_check-1, ... that run on this machine
#   thin_tools_dir           print the directory that holds them

# What the tests run in the guest. udev, lvm2 and dmeventd bring the distribution's own rules.
ROOTFS_PACKAGES=(
	lvm2 dmeventd dmsetup thin-provisioning-tools
	e2fsprogs xfsprogs cryptsetup-bin mdadm fio
	python3 python3-pytest
	bash coreutils util-linux mount kmod udev procps psmisc strace rsync file xz-utils
	iproute2 gdb-minimal attr acl
)
# Raise it when the recipe below changes.
ROOTFS_RECIPE=1

rootfs_dir() {
	local key
	key=$(printf '%s\n' "$ROOTFS_RECIPE" "${ROOTFS_PACKAGES[@]}" | sha256sum)
	printf '%s\n' "$DM_THIN_CACHE/rootfs/trixie-${key:0:12}"
}

rootfs_prepare() {
	[ -e "$(rootfs_dir)" ] || once rootfs make_rootfs
}

make_rootfs() {
	local dir tmp
	dir=$(rootfs_dir)
	[ ! -e "$dir" ] || return 0
	tmp=$dir.making
	debian_root "$tmp" trixie "${ROOTFS_PACKAGES[@]}"
	add_old_thin_tools "$tmp"
	# Mount points, because the root is read-only to guests.
	mkdir -p "$tmp"/{src,share,out,run/vm,run/lower} "$tmp/lib/modules"
	printf 'guest\n' >"$tmp/etc/hostname"
	printf '127.0.0.1 localhost guest\n::1 localhost\n' >"$tmp/etc/hosts"
	: >"$tmp/etc/fstab"
	mv "$tmp" "$dir"
}

# A root is made aside and moved in when whole. The host's apt settings for reaching the
# archive (a proxy, say) go along; its sources do not.
debian_root() {
	local dir=$1 suite=$2 uri keyring log packages part=$1.part
	shift 2
	need_root
	need_host mmdebstrap
	uri=$(archive_uri)
	keyring=$(archive_keyring)
	log=$DM_THIN_CACHE/log/rootfs-$(basename "$dir").log
	packages=$(IFS=,; echo "$*")
	step "Making a Debian $suite root with mmdebstrap ($# packages and what they need; a minute or two)"
	mkdir -p "$(dirname "$dir")"
	rm -rf "$dir" "$part"
	: >"$log"
	apt-config dump --no-empty --format '%F "%v";%n' Acquire |
		grep -E '^Acquire::(http|https|ftp|Check|Retries|ForceIPv)' >"$dir.apt.conf" || true
	if ! quietly "$log" mmdebstrap --mode=root --variant=minbase --include="$packages" \
		--keyring="$keyring" \
		--aptopt="$dir.apt.conf" \
		--aptopt='APT::Install-Recommends "false"' \
		--aptopt='Acquire::Languages "none"' \
		"$suite" "$part" "deb [signed-by=$keyring] $uri $suite main"; then
		die "mmdebstrap could not make a Debian $suite root"
	fi
	rm -f "$dir.apt.conf"
	mv "$part" "$dir"
}

# thin-provisioning-tools 0.9 judges metadata differently from 1.x: both are wanted. Its
# libraries that trixie no longer has come from bookworm as well and lie beside it.
add_old_thin_tools() {
	local root=$1 old=$1/opt/thin-0.9 tmp=$1/opt/.unpack tool deb
	mkdir -p "$old/bin" "$old/lib" "$root/usr/local/sbin"
	for deb in thin-provisioning-tools libaio1; do
		deb=$(suite_fetch bookworm "$deb")
		unpack_deb "$deb" "$tmp"
	done
	cp "$tmp/usr/sbin/pdata_tools" "$old/bin/"
	find "$tmp" -name 'libaio.so.1*' -exec cp -a {} "$old/lib/" \;
	rm -rf "$tmp"
	for tool in thin_check thin_dump thin_restore thin_repair thin_rmap thin_delta thin_metadata_size thin_ls; do
		cat >"$root/usr/local/sbin/$tool-0.9" <<-WRAP
			#!/bin/sh
			exec env LD_LIBRARY_PATH=/opt/thin-0.9/lib /opt/thin-0.9/bin/pdata_tools $tool "\$@"
		WRAP
		chmod 755 "$root/usr/local/sbin/$tool-0.9"
	done
	chroot "$root" /usr/local/sbin/thin_check-0.9 --version >/dev/null ||
		die "thin_check 0.9 of bookworm does not run in the guest root"
}

thin_tools_dir() { printf '%s\n' "$(rootfs_dir).tools"; }

# The same tools on this machine, whatever Debian it is: the guest root's own loader and
# libraries run the guest root's programs.
thin_tools_prepare() {
	local root dir tool loader libs
	rootfs_prepare
	root=$(rootfs_dir)
	dir=$(thin_tools_dir)
	[ ! -e "$dir/thin_dump-1" ] || return 0
	loader=$root/lib64/ld-linux-x86-64.so.2
	libs=$root/usr/lib/x86_64-linux-gnu
	mkdir -p "$dir"
	for tool in thin_check thin_restore thin_repair thin_rmap thin_delta thin_ls thin_metadata_size thin_dump; do
		printf '#!/bin/sh\nexec %q --library-path %q %q %s "$@"\n' "$loader" \
			"$root/opt/thin-0.9/lib:$libs" "$root/opt/thin-0.9/bin/pdata_tools" "$tool" >"$dir/$tool-0.9"
		printf '#!/bin/sh\nexec %q --library-path %q %q %s "$@"\n' "$loader" \
			"$libs" "$root/usr/sbin/pdata_tools" "$tool" >"$dir/$tool-1"
		chmod 755 "$dir/$tool-0.9" "$dir/$tool-1"
	done
}
