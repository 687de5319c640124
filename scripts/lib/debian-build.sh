# shellcheck shell=bash
# debian-build.sh - this checkout's module, built for Debian's kernels.
#
# Sourced after common.sh, module.sh, rootfs.sh and debian-kernel.sh. The helpers in a kernel's header packages
# are programs of that kernel's own release: they want its libc and its compiler. So the
# build runs in a small root of that release, in mount and process namespaces that vanish with it.
#
#   debian_build_root KERNEL          make the root, print its path
#   build_root NAME SUITE PACKAGE...  a root of any release, with a compiler and what its kernels' helpers need
#   debian_build_module KERNEL        build, print the path of the .ko; VM_WERROR=1: a warning is an error
#   debian_sparse KERNEL              run sparse over every file; its findings on stderr, status 1 if any

debian_build_root() {
	local suite packages
	suite=$(build_suite "$1")
	packages=("$(debian_compiler "$1")" libelf1 libssl3)
	# From 6.12 on the headers carry the kernel's types, and kbuild insists on pahole to add the module's.
	[ "$suite" = bookworm ] || packages+=(pahole)
	build_root "$suite-${packages[0]}" "$suite" "${packages[@]}"
}

# Backports are built with the compiler of the release they are for.
build_suite() {
	local suite
	suite=$(debian_suite "$1")
	printf '%s\n' "${suite%-backports}"
}

build_root() {
	local root=$DM_THIN_CACHE/debian/root/$1
	shift
	[ -d "$root" ] || once "${root##*/}" make_build_root "$root" "$@"
	printf '%s\n' "$root"
}

make_build_root() {
	local root=$1 suite=$2
	shift 2
	[ ! -d "$root" ] || return 0
	debian_root "$root.new" "$suite" make libc6-dev xz-utils sparse "$@"
	mkdir -p "$root.new/src" "$root.new/usr/src"
	mv "$root.new" "$root"
}

# in_build_root ROOT HEADERS DIR CMD...: run CMD in the root, DIR at /src, the kernel's headers in their place.
in_build_root() {
	local root=$1 headers=$2 dir=$3
	shift 3
	need_host mount
	# shellcheck disable=SC2016  # expanded by the inner shell
	unshare --mount --pid --fork --kill-child bash -euc '
		root=$1 headers=$2 dir=$3
		shift 3
		# The mount point of kbuild is made on a scratch layer, so that the root itself never changes.
		mount -t tmpfs -o mode=755 tmpfs "$root/mnt"
		mkdir "$root/mnt/upper" "$root/mnt/work"
		mount -t overlay -o "lowerdir=$root/usr,upperdir=$root/mnt/upper,workdir=$root/mnt/work" overlay "$root/usr"
		mount --bind "$headers/usr/src" "$root/usr/src"
		for kbuild in "$headers"/usr/lib/linux-kbuild-*; do
			mkdir "$root/usr/lib/${kbuild##*/}"
			mount --bind "$kbuild" "$root/usr/lib/${kbuild##*/}"
		done
		mount --bind "$dir" "$root/src"
		mount --bind /dev "$root/dev"
		mount -t proc proc "$root/proc"
		mount -t tmpfs tmpfs "$root/tmp"
		# Not exec: make as the first process of its namespace would survive the signal
		# that it sends itself on being terminated, and spin.
		chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp LC_ALL=C "$@" || exit $?
	' in_build_root "$root" "$headers" "$dir" "$@"
}

debian_build_module() {
	once "debian-build-$1" build_module "$1"
}

# Two checkouts must not take each other's objects for their own.
checkout_key() { printf '%s' "$SRC" | sha256sum | cut -c1-8; }

# The result is kept under the hash of what it was made of: a guest may still be
# starting with it when the next build runs.
build_module() {
	local kernel=$1 dir base hash log ko
	unshare --mount --pid --fork true ||
		die "building for Debian's kernels needs a mount namespace, and this environment does not allow one"
	base=$(dirname "$(debian_headers "$kernel")")
	debian_build_root "$kernel" >/dev/null
	dir=$base/build-$(checkout_key)
	module_sources "$dir"
	hash=$(sources_hash "$dir" "${VM_WERROR:-}")
	ko=$base/module/$hash/dm-thin-pool.ko
	if [ ! -e "$ko" ]; then
		note "building the module for $(debian_release "$kernel")"
		log=$DM_THIN_CACHE/log/module-$kernel.log
		compile "$kernel" "$dir" "$log" all || die "the module does not build for $(debian_release "$kernel")"
		[ -e "$dir/dm-thin-pool.ko" ] || die "the build for $(debian_release "$kernel") left no dm-thin-pool.ko"
		mkdir -p "${ko%/*}"
		cp "$dir/dm-thin-pool.ko" "$ko.new"
		mv "$ko.new" "$ko"
		find "$base/module" -mindepth 1 -maxdepth 1 -mmin +1440 -exec rm -rf {} +
	fi
	printf '%s\n' "$ko"
}

sources_hash() {
	(
		cd "$1" || exit
		{
			echo "$2"
			find . -type f \( -name '*.[ch]' -o -name Makefile -o -name Kbuild -o -name dkms.conf \) ! -name '*.mod.c' \
				-print0 | sort -z | xargs -0 sha256sum
		} | sha256sum | cut -c1-16
	)
}

# Compiler output goes to stderr, and is judged from the log.
compile() {
	local kernel=$1 dir=$2 log=$3 rc=0
	shift 3
	local make=(nice make -C /src "-j$JOBS" KDIR="/usr/src/linux-headers-$(debian_release "$kernel")" W=1)
	[ -z "${VM_WERROR:-}" ] || make+=(KCFLAGS=-Werror)
	in_build_root "$(debian_build_root "$kernel")" "$(debian_headers "$kernel")" "$dir" "${make[@]}" "$@" \
		>"$log" 2>&1 </dev/null || rc=$?
	# Only the compiler's findings are worth reading. Missing kernel type information says nothing about the module.
	grep -vE '^ *(CC|LD|AR|MODPOST|BTF|CHECK|CLEAN) |^make(\[[0-9]+\])?: (Entering|Leaving)|^Skipping BTF|^make -C ' \
		"$log" | sed 's#^/src/##' >&2 || true
	if [ -n "${VM_WERROR:-}" ] && grep -qiE '(^|[: ])warning: ' "$log"; then
		# modpost's warnings do not stop make: forget what was built, or the next run would not warn again.
		find "$dir" -name '*.ko' -delete
		return 1
	fi
	return "$rc"
}

# Sparse wants every file looked at, whatever was built before: it gets a directory of its own.
debian_sparse() {
	once "debian-sparse-$1" run_sparse "$1"
}

run_sparse() {
	local kernel=$1 dir log
	log=$DM_THIN_CACHE/log/sparse-$kernel.log
	dir=$(dirname "$(debian_headers "$kernel")")/sparse-$(checkout_key)
	rm -rf "$dir"
	module_sources "$dir"
	note "running sparse against $(debian_release "$kernel")"
	# Newer headers use an operator and constant expressions that Debian's sparse does not know yet. The older
	# operator tells it the same, and the compiler has proved the assertions already.
	cat >"$dir/.sparse.h" <<-H
		#define __typeof_unqual__ __typeof__
		#define _Static_assert(...)
	H
	compile "$kernel" "$dir" "$log" C=2 'CF=-D__CHECK_ENDIAN__ -include /src/.sparse.h' all || return
	grep -q '^ *CHECK ' "$log" || die "sparse was not run on a single file; see $log"
	! grep -qE ': (warning|error): ' "$log"
}
