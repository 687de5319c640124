# shellcheck shell=bash
# package.sh - the Debian packages, built from this checkout in a clean root.
#
# Sourced after common.sh and rootfs.sh.
#
#   package_build DIR      build all packages into DIR (emptied first), judge them by lintian
#   package_version        the version that they have

PACKAGE_SUITE=trixie
PACKAGE_TOOLS=(build-essential debhelper dh-dkms lintian)

package_version() { sed -n 's/^PACKAGE_VERSION="\(.*\)"/\1/p' "$SRC/dkms.conf"; }

package_root() {
	local root key
	key=$(printf '%s\n' "${PACKAGE_TOOLS[@]}" | sha256sum)
	root=$DM_THIN_CACHE/debian/root/package-$PACKAGE_SUITE-${key:0:8}
	[ -d "$root" ] || once "${root##*/}" make_package_root "$root"
	printf '%s\n' "$root"
}

make_package_root() {
	[ ! -d "$1" ] || return 0
	debian_root "$1" "$PACKAGE_SUITE" "${PACKAGE_TOOLS[@]}"
}

# What git knows, as it is in the work tree: neither builds nor logs get into the source package.
package_sources() {
	(cd "$SRC" && git -c safe.directory="$SRC" ls-files -z --cached --others --exclude-standard |
		while IFS= read -r -d '' file; do [ ! -e "$file" ] || printf '%s\0' "$file"; done |
		tar --null -T - -c) | tar -C "$1" -x --no-same-owner
}

package_build() {
	local dir=$1 root work log=$DM_THIN_CACHE/log/package.log
	need_host git mount
	root=$(package_root)
	work=$(mktemp -d "$DM_THIN_CACHE/package.XXXXXX")
	mkdir "$work/dm-thin"
	package_sources "$work/dm-thin"
	: >"$log"
	# The root is left as it is: the build sees it through an overlay that goes with its mount namespace.
	# shellcheck disable=SC2016  # expanded by the inner shell
	if ! quietly "$log" unshare --mount --pid --fork --kill-child bash -euc '
		root=$1 work=$2
		mount -t tmpfs -o mode=755 tmpfs "$root/mnt"
		mkdir "$root/mnt/upper" "$root/mnt/work" "$root/mnt/root"
		mount -t overlay -o "lowerdir=$root,upperdir=$root/mnt/upper,workdir=$root/mnt/work" overlay "$root/mnt/root"
		cd "$root/mnt/root"
		mount --bind /dev dev
		mount -t proc proc proc
		mkdir -p build
		mount --bind "$work" build
		chroot . env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp LC_ALL=C.UTF-8 sh -euc "
			cd /build/dm-thin
			dpkg-buildpackage --no-sign
			lintian --allow-root --fail-on error,warning --display-info --pedantic ../*.changes
		" || exit $?
	' package_build "$root" "$work"; then
		rm -rf "$work"
		die "the packages could not be built, or lintian finds fault with them"
	fi
	rm -rf "$dir" "$work/dm-thin"
	mkdir -p "$(dirname "$dir")"
	mv "$work" "$dir"
}
