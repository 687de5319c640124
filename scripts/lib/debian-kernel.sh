# shellcheck shell=bash
# debian-kernel.sh - Debian's own kernels and their headers, unpacked in the cache.
#
# Sourced after common.sh. KERNEL is what a person types: 6.1, 6.12 or latest.
# Nothing is installed: the packages are unpacked side by side, each under the release
# and package version it came from, so that a newer one replaces the old one whole.
#
#   debian_kernels              the kernels there are, oldest first
#   debian_suite KERNEL         the suite that carries it
#   debian_release KERNEL       what `uname -r` will say
#   debian_compiler KERNEL      the compiler package its headers ask for
#   debian_headers KERNEL       directory with usr/src, usr/lib/linux-kbuild-*, lib/modules
#   debian_image KERNEL         directory with vmlinux (an ELF file) and lib/modules/RELEASE

debian_kernels() { printf '%s\n' 6.1 6.12 latest; }

debian_suite() {
	case $1 in
	6.1) echo bookworm ;;
	6.12) echo trixie ;;
	latest) echo trixie-backports ;;
	*) die "there is no Debian kernel '$1' here, only: $(debian_kernels | paste -sd ' ')" ;;
	esac
}

# The plan says in one file what is to be unpacked: it is asked of apt once per package index.
debian_plan() {
	local suite plan
	suite=$(debian_suite "$1")
	plan=$DM_THIN_CACHE/debian/plan/$1
	once "apt-$suite" suite_setup "$suite"
	if [ ! -e "$plan" ] || [ "$(suite_root "$suite")/updated" -nt "$plan" ]; then
		once "debian-plan-$1" write_plan "$1" "$suite" "$plan"
	fi
	printf '%s\n' "$plan"
}

write_plan() {
	local kernel=$1 suite=$2 plan=$3 headers image release
	headers=$(package_closure "$suite" linux-headers-amd64 'linux-((headers|kbuild|base)-[0-9].*|compiler-gcc.*)')
	image=$(package_closure "$suite" linux-image-amd64 'linux-(image|binary|modules|base)-[0-9].*')
	release=$(sed -n 's/^linux-image-\([0-9][^ ]*\).*/\1/p' <<<"$image" | head -n 1)
	[ -n "$release" ] || die "linux-image-amd64 of $suite names no kernel"
	mkdir -p "${plan%/*}"
	{
		echo "release $release"
		echo "version $(suite_version "$suite" linux-image-amd64)"
		# The headers name the compiler their kernel was built with.
		echo "compiler $(package_depends "$suite" "$headers" |
			sed -nE 's/^(gcc-[0-9]+)(-for-host)?$/\1/p' | sort -uV | tail -n 1)"
		printf '%s\n' "$headers" | grep -v ^linux-compiler | sed 's/^/headers /'
		printf '%s\n' "$image" | sed 's/^/image /'
	} >"$plan.new"
	[ "$kernel" = latest ] || [[ $release == "$kernel".* ]] ||
		die "Debian $suite now carries kernel $release instead of $kernel"
	mv "$plan.new" "$plan"
}

# First alternatives of everything that the packages on stdin or in $2 depend on.
package_depends() {
	local suite=$1 pkgs=$2
	# shellcheck disable=SC2086  # a list of names
	suite_apt "$suite" apt-cache show --no-all-versions $pkgs |
		sed -n 's/^Depends: //p' | tr ',' '\n' | sed -E 's/^ *([^ |(:]+).*/\1/' | sort -u
}

# Kernels come as a tree of packages that is cut differently in every release: follow
# the dependencies from the metapackage, but only through names that are parts of the kernel.
package_closure() {
	local suite=$1 start=$2 regex=$3 known='' todo next
	todo=$(package_depends "$suite" "$start" | grep -Ex "$regex")
	while [ -n "$todo" ]; do
		known=$(printf '%s\n' "$known" "$todo" | sed '/^$/d' | sort -u)
		next=$(package_depends "$suite" "$todo" | grep -Ex "$regex") || true
		todo=$(comm -13 <(echo "$known") <(echo "$next"))
	done
	printf '%s\n' "$known"
}

plan_get() { sed -n "s/^$2 //p" "$(debian_plan "$1")"; }

debian_release() { plan_get "$1" release; }
debian_compiler() { plan_get "$1" compiler; }

debian_headers() { unpacked "$1" headers; }
debian_image() { unpacked "$1" image; }

unpacked() {
	local kernel=$1 what=$2 dir
	dir=$DM_THIN_CACHE/debian/kernel/$kernel/$(plan_get "$kernel" release)_$(plan_get "$kernel" version)/$what
	[ -d "$dir" ] || once "debian-$kernel-$what" unpack_kernel "$kernel" "$what" "$dir"
	printf '%s\n' "$dir"
}

unpack_kernel() {
	local kernel=$1 what=$2 dir=$3 suite tmp pkg deb
	[ ! -d "$dir" ] || return 0
	suite=$(debian_suite "$kernel")
	need_host xz-utils zstd kmod
	step "Fetching the $what of Debian's kernel $(plan_get "$kernel" release) ($suite)"
	tmp=$dir.new
	rm -rf "$tmp"
	mkdir -p "$tmp"
	for pkg in $(plan_get "$kernel" "$what"); do
		deb=$(suite_fetch "$suite" "$pkg")
		unpack_deb "$deb" "$tmp"
		rm -f "$deb"
	done
	"arrange_$what" "$tmp" "$(plan_get "$kernel" release)"
	mv "$tmp" "$dir"
	prune_kernels "$kernel" "${dir%/*}"
}

arrange_headers() {
	# Some kbuild packages lack the script that make C=1 calls to ask whether sparse is good enough.
	local scripts
	for scripts in "$1"/usr/lib/linux-kbuild-*/scripts; do
		[ -e "$scripts/checker-valid.sh" ] && continue
		printf '#!/bin/sh\necho 1\n' >"$scripts/checker-valid.sh"
		chmod +x "$scripts/checker-valid.sh"
	done
}

# One shape for all releases: the packages put these files in different places.
arrange_image() {
	local tmp=$1 release=$2 modules file
	modules=$tmp/usr/lib/modules/$release
	[ -d "$modules" ] || modules=$tmp/lib/modules/$release
	for file in "$tmp/boot/vmlinuz-$release" "$modules/vmlinuz"; do
		[ ! -e "$file" ] || extract_kernel "$file" "$tmp/vmlinux"
	done
	[ -e "$tmp/vmlinux" ] || die "the packages of kernel $release hold no vmlinuz"
	rm -f "$modules/vmlinuz" "$modules/System.map" "$modules/build" "$modules/source"
	mv "$modules" "$tmp/modules"
	rm -rf "${tmp:?}/usr" "${tmp:?}/lib" "${tmp:?}/boot"
	mkdir -p "$tmp/lib/modules"
	mv "$tmp/modules" "$tmp/lib/modules/$release"
	trim_modules "$tmp/lib/modules/$release"
	depmod -b "$tmp" "$release"
}

# An emulated processor needs seconds to decompress its kernel, the host a moment. The
# offsets are those of the x86 boot protocol: setup_sects, payload_offset, payload_length.
extract_kernel() {
	local file=$1 to=$2 sectors offset length
	sectors=$(number_at "$file" 497 1)
	offset=$(((sectors + 1) * 512 + $(number_at "$file" 584 4)))
	length=$(number_at "$file" 588 4)
	# The last four bytes are the size of the unpacked kernel.
	head -c "$((offset + length - 4))" "$file" | tail -c "+$((offset + 1))" >"$to.packed"
	case $(od -An -tx1 -N4 "$to.packed" | tr -d ' ') in
	fd377a58) xz -dc --single-stream <"$to.packed" >"$to" ;;
	28b52ffd) zstd -qdc <"$to.packed" >"$to" ;;
	*) die "kernel ${file##*/} is compressed in an unknown way" ;;
	esac
	rm -f "$to.packed"
	[ "$(head -c 4 "$to")" = $'\177ELF' ] || die "kernel ${file##*/} did not unpack to an ELF file"
}

number_at() { od -An "-tu$3" -j "$2" -N "$3" "$1" | tr -d ' '; }

# A test guest has no sound card, and a driver that udev finds a device for costs an emulated processor a
# good part of a second. What stays is what storage may want; it is kept decompressed for the same reason.
trim_modules() {
	local modules=$1
	(
		cd "$modules/kernel" || exit
		rm -rf sound virt arch/x86/kvm arch/x86/events arch/x86/platform
		find arch -path '*/crypto/*' -name '*.ko*' ! -name 'crc*' -delete
		find net -mindepth 1 -maxdepth 1 ! -name 9p ! -name core ! -name vmw_vsock -exec rm -rf {} +
		find drivers -mindepth 1 -maxdepth 1 -type d | grep -vxE \
			'drivers/(ata|base|block|cdrom|dax|md|mtd|nvdimm|nvme|scsi|target|virtio|char)' |
			xargs rm -rf
		find drivers/ata drivers/block/floppy* ! -type d ! -name 'libata.ko*' -delete
		find drivers/char ! -type d ! -name 'virtio_console.ko*' -delete
		find . -name '*.ko.xz' -print0 | xargs -0r -n 64 -P "$JOBS" unxz
		find . -name '*.ko.zst' -print0 | xargs -0r -n 64 zstd -q -d --rm
	)
	sed -i -E 's/\.ko\.(xz|zst)$/.ko/' "$modules/modules.order"
}

# Older versions of the same kernel go with all that was built against them, but not while a guest may run on them.
prune_kernels() {
	local kernel=$1 keep=$2 old
	for old in "$DM_THIN_CACHE/debian/kernel/$kernel"/*; do
		if [ "$old" = "$keep" ]; then
			rm -f "$old/superseded"
		elif [ ! -e "$old/superseded" ]; then
			: >"$old/superseded"
		elif [ -n "$(find "$old/superseded" -mmin +1440)" ]; then
			rm -rf "$old"
		fi
	done
}
