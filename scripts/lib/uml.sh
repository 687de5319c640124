# shellcheck shell=bash
# uml.sh - back end of scripts/vm for User Mode Linux: a whole kernel as a process of this machine.
#
# Built from the newest linux-source package of trixie-backports. One source tree, a build
# tree per kernel name: `uml` from uml.config, `uml-debug` from that and uml.config.debug.
# uml.patch is applied to the source; it says why.
# The contract stands at the top of scripts/vm.
#
# Layout in the cache: uml/current -> VERSION; uml/VERSION/src* (source trees, one per uml.patch);
# uml/VERSION/KERNEL-KEY (build trees with linux and lib/modules, one per options and
# patch). Checkouts that differ in these run side by side: what is built is never changed.

UML_SUITE=trixie-backports
UML_SOURCE_REGEX='linux-source-[0-9]+\.[0-9]+'
UML_HOST_PACKAGES=(gcc make patch libc6-dev flex bison bc xz-utils perl kmod rsync cpio)

uml_kernels() { printf '%s\n' uml uml-debug; }

uml_configs() {
	printf '%s\n' "$SRC/scripts/lib/uml.config"
	[ "$1" = uml ] || printf '%s\n' "$SRC/scripts/lib/uml.config.${1#uml-}"
}

# The newest source at the time of the first build is kept until DM_THIN_UPDATE=1 asks for a
# newer one: a test run must not start a long build because a point release appeared.
uml_version_dir() {
	local version
	if [ ! -e "$DM_THIN_CACHE/uml/current/src/Makefile" ] || [ "${DM_THIN_UPDATE:-0}" = 1 ]; then
		once uml-source uml_fetch_source
	fi
	version=$(readlink "$DM_THIN_CACHE/uml/current")
	printf '%s\n' "$DM_THIN_CACHE/uml/$version"
}

uml_fetch_source() {
	local pkg version dir deb tmp
	pkg=$(suite_newest "$UML_SUITE" "$UML_SOURCE_REGEX")
	version=$(suite_version "$UML_SUITE" "$pkg")
	dir=$DM_THIN_CACHE/uml/${version//[^A-Za-z0-9.]/-}
	if [ ! -e "$dir/src/Makefile" ]; then
		step "Fetching and unpacking the source of Linux $version (160 MB, unpacked 1.7 GB)"
		deb=$(suite_fetch "$UML_SUITE" "$pkg")
		tmp=$dir/.unpack
		rm -rf "$tmp" && mkdir -p "$tmp"
		unpack_deb "$deb" "$tmp/deb"
		tar -C "$tmp" --no-same-owner -xf "$tmp/deb/usr/src/$pkg".tar.*
		mv "$tmp/$pkg" "$dir/src"
		rm -rf "$tmp" "$deb"
	fi
	ln -sfn "$(basename "$dir")" "$DM_THIN_CACHE/uml/current"
}

# The source tree that carries this checkout's patch.
uml_source_dir() {
	local dir src
	dir=$(uml_version_dir)
	if ! src=$(uml_patched_source "$dir"); then
		once uml-source uml_patch_source "$dir"
		src=$(uml_patched_source "$dir")
	fi
	printf '%s\n' "$src"
}

uml_patched_source() {
	local src
	for src in "$1"/src*; do
		cmp -s "$SRC/scripts/lib/uml.patch" "$src/.tried.patch" || continue
		printf '%s\n' "$src"
		return 0
	done
	return 1
}

# Another patch than the first gets a tree of its own, of hard links: a build compiles what it
# names by path, so a tree in use must not change. A newer kernel may refuse the patch; uml does without.
uml_patch_source() {
	local dir=$1 src=$1/src log=$DM_THIN_CACHE/log/uml-patch.log patch=$SRC/scripts/lib/uml.patch
	! uml_patched_source "$dir" >/dev/null || return 0
	if [ -e "$src/.tried.patch" ]; then
		src=$dir/src-$(sha256sum <"$patch" | cut -c1-8)
		rm -rf "$src"
		cp -al "$dir/src" "$src"
		if [ -e "$src/.applied.patch" ]; then
			quietly "$log" patch -d "$src" -p1 -R -i "$src/.applied.patch" ||
				die "the patch of another checkout cannot be taken back in $src; remove $dir to start anew"
		fi
		# Hard links: these must not be written to.
		rm -f "$src/.applied.patch" "$src/.tried.patch"
	fi
	if quietly "$log" patch -d "$src" -p1 --dry-run -i "$patch"; then
		quietly "$log" patch -d "$src" -p1 -i "$patch"
		cp "$patch" "$src/.applied.patch"
	else
		warn "scripts/lib/uml.patch does not fit this kernel; uml-debug will be slow and may complain without cause"
	fi
	cp "$patch" "$src/.tried.patch"
}

uml_build_dir() {
	local dir key
	dir=$(uml_version_dir)
	key=$(uml_config_key "$1")
	printf '%s/%s-%s\n' "$dir" "$1" "$key"
}

uml_config_key() {
	local files
	mapfile -t files < <(uml_configs "$1")
	{ cat "${files[@]}" "$SRC/scripts/lib/uml.patch"; gcc -dumpfullversion; } | sha256sum | cut -c1-8
}

uml_prepare() {
	local build
	need_host "${UML_HOST_PACKAGES[@]}"
	rootfs_prepare
	build=$(uml_build_dir "$1")
	[ -e "$build/built" ] || once "${build##*/}" uml_build "$1" "$build"
	touch "$build/built"
}

uml_make() {
	local build=$1 src
	shift
	src=$(cat "$build/source-dir")
	nice make -C "$src" O="$build" ARCH=um "$@"
}

uml_build() {
	local kernel=$1 build=$2 log=$DM_THIN_CACHE/log/${2##*/}-build.log files progress
	[ ! -e "$build/built" ] || return 0
	mapfile -t files < <(uml_configs "$kernel")
	step "Building the kernel '$kernel' (User Mode Linux; some 5 to 15 minutes on 2 cores, once)"
	uml_seed "$kernel" "$build"
	: >"$log"
	# A later file overrides an earlier one: Kconfig takes the last line about a symbol.
	cat "${files[@]}" >"$build/wanted.config"
	quietly "$log" uml_make "$build" KCONFIG_ALLCONFIG="$build/wanted.config" allnoconfig ||
		die "the configuration of '$kernel' could not be made"
	uml_check_config "$build"
	( while sleep 60 >/dev/null 2>&1; do note "$(grep -c '^  ' "$log") steps, now: $(tail -n 1 "$log" | cut -c1-60)"; done ) &
	progress=$!
	# shellcheck disable=SC2064
	trap "kill $progress 2>/dev/null || true" EXIT
	quietly "$log" uml_make "$build" -j"$JOBS" linux modules ||
		die "the kernel '$kernel' does not build"
	quietly "$log" uml_make "$build" INSTALL_MOD_PATH="$build/root" INSTALL_MOD_STRIP=1 modules_install ||
		die "the modules of '$kernel' could not be installed in the cache"
	touch "$build/built"
	note "built $("$build/linux" --version)"
	uml_forget_old "$kernel"
}

# A build that differs little starts from the objects of the one before, if the source is the same.
uml_seed() {
	local kernel=$1 build=$2 src old
	src=$(uml_source_dir)
	if [ ! -e "$build/source-dir" ]; then
		for old in "${build%/*}/$kernel"-????????; do
			[ -e "$old/built" ] || continue
			[ "$(cat "$old/source-dir")" = "$src" ] || continue
			rm -rf "$build.seed"
			cp -a "$old" "$build.seed"
			rm -rf "$build.seed/built" "$build.seed/root"
			mv "$build.seed" "$build"
			break
		done
	fi
	mkdir -p "$build"
	printf '%s\n' "$src" >"$build/source-dir"
}

# Kernels that nobody started for a month.
uml_forget_old() {
	local old
	for old in "$(uml_version_dir)/$1"-????????; do
		[ -z "$(find "$old/built" -mtime +30 2>/dev/null)" ] || rm -rf "$old"
	done
}

# Kconfig drops in silence what it cannot have.
uml_check_config() {
	local build=$1 line symbol lost=()
	while IFS= read -r line; do
		symbol=${line%%=*}
		case ${line#*=} in
		n) ! grep -q "^$symbol=" "$build/.config" || lost+=("$line") ;;
		*) grep -qxF "$line" "$build/.config" || lost+=("$line") ;;
		esac
	done < <(grep -E '^CONFIG_' "$build/wanted.config" | tac | awk -F= '!seen[$1]++')
	[ "${#lost[@]}" -eq 0 ] || die "this kernel's Kconfig refuses: ${lost[*]}"
}

uml_build_module() {
	local build dir
	build=$(uml_build_dir "$1")
	dir=$(module_build_dir "${build##*/}")
	once "module-${dir//[^A-Za-z0-9]/-}" uml_make_module "$1" "$build" "$dir"
	printf '%s\n' "$dir/result/dm-thin-pool.ko"
}

uml_make_module() {
	local kernel=$1 build=$2 dir=$3 log=$3/build.log werror=() stamp
	module_sources "$dir"
	[ "${VM_WERROR:-0}" = 0 ] || werror=(KCFLAGS=-Werror)
	# kbuild does not see that the kernel below was built anew.
	stamp=$(stat -c %Y "$build/linux")
	if [ "$(cat "$dir/.kernel" 2>/dev/null)" != "$stamp" ]; then
		find "$dir" \( -name '*.o' -o -name '*.ko' -o -name '.*.cmd' -o -name '*.mod*' \) -delete
		printf '%s\n' "$stamp" >"$dir/.kernel"
	fi
	if ! uml_make "$build" M="$dir" W=1 "${werror[@]}" -j"$JOBS" modules >"$log" 2>&1 </dev/null; then
		grep -vE "^make|^  [A-Z]" "$log" >&2 || true
		die "the module does not build for '$kernel'"
	fi
	grep -E 'warning|WARNING|^[^ ].*(:[0-9]+:|note:)' "$log" >&2 || true
	[ -e "$dir/dm-thin-pool.ko" ] || die "the build for '$kernel' left no dm-thin-pool.ko in $dir"
	# Renamed into place: another run may be copying the one before.
	mkdir -p "$dir/result"
	cp "$dir/dm-thin-pool.ko" "$dir/result/.new"
	mv "$dir/result/.new" "$dir/result/dm-thin-pool.ko"
}

# UML keeps its memory in a file: on a disk it would be written out.
uml_tmpdir() {
	local free_mb
	free_mb=$(df -Pm /dev/shm 2>/dev/null | awk 'NR == 2 { print $4 }')
	if [ "$(stat -f -c %T /dev/shm 2>/dev/null)" = tmpfs ] && [ "${free_mb:-0}" -ge "$1" ]; then
		echo /dev/shm
	else
		echo "$2"
	fi
}

# The kernel's console and the two streams of the command have a channel each. What the UML
# program itself says goes to the console's file too. Paths reach hostfs through links in
# RUNDIR, so that no odd character of theirs meets a mount option.
uml_run() {
	local kernel=$1 run=$2 build out err console rc=0 share outdir words tmp
	build=$(uml_build_dir "$kernel")
	share=$(cat "$run/share")
	outdir=$(cat "$run/out")
	ln -sfn "$SRC" "$run/host-src"
	ln -sfn "$build/root/lib/modules" "$run/host-modules"
	# As in Debian's kernels: resize2fs writes to what is mounted.
	words=(VM_STDOUT=/dev/tty1 VM_STDERR=/dev/tty2 "VM_RUN=$run" bdev_allow_write_mounted=1)
	[ -z "$share" ] || { ln -sfn "$share" "$run/host-share"; words+=(VM_SHARE=1); }
	[ -z "$outdir" ] || { ln -sfn "$outdir" "$run/host-out"; words+=(VM_OUT=1); }
	# shellcheck disable=SC1091
	. "$run/settings"
	# shellcheck disable=SC2206  # words without blanks
	words+=($BOOT)
	[ "$SMP" -le 4 ] || die "'$kernel' has 4 processors at most, not $SMP"
	tmp=$(uml_tmpdir "$MEM_MB" "$run")
	output_pipe out /dev/stdout
	output_pipe err /dev/stderr
	output_pipe console "$run/console.log"
	TMPDIR=$tmp run_guest "$TIMEOUT" "$build/linux" \
		"mem=${MEM_MB}M" "ncpus=$SMP" seccomp=on "uml_dir=$run/" umid=uml \
		root=/dev/root rootfstype=hostfs "rootflags=$(rootfs_dir)" ro \
		con=null ssl=null con0=null,fd:3 con1=null,fd:4 con2=null,fd:5 \
		loglevel=7 panic=-1 oops=panic "${words[@]}" \
		init=/bin/sh -- -c "\"mount -t hostfs -o hostfs=$run/host-src/ none /src; exec /src/tests/guest/uml-init\"" \
		</dev/null >&"$console" 2>&1 3>&"$console" 4>&"$out" 5>&"$err" || rc=$?
	output_drain
	return "$rc"
}
