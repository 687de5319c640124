# shellcheck shell=bash
# module.sh - which files of the checkout make the module.
#
# Sourced after common.sh.
#
#   module_sources DIR    make DIR hold what the module is built from, and no source that is gone.
#                         Unchanged files keep their time, so that make builds only what changed.

module_files() {
	(
		cd "$SRC" || exit
		find . -mindepth 1 \( -name '.*' -o -path ./tests -o -path ./scripts -o -path ./bench -o -path ./docs -o -path ./debian \) -prune \
			-o -type f \( -name '*.[chS]' -o -name Makefile -o -name Kbuild -o -name dkms.conf \) ! -name '*.mod.c' -printf '%P\n'
	)
}

module_sources() {
	local dir=$1 file
	[ -e "$SRC/Makefile" ] || die "this checkout has no Makefile, so there is no module to build"
	mkdir -p "$dir"
	module_files | sort >"$dir/.sources.new"
	if [ -e "$dir/.sources" ]; then
		comm -23 "$dir/.sources" "$dir/.sources.new" | while IFS= read -r file; do
			rm -f "$dir/$file"
		done
	fi
	while IFS= read -r file; do
		cmp -s "$SRC/$file" "$dir/$file" && continue
		mkdir -p "$(dirname "$dir/$file")"
		cp "$SRC/$file" "$dir/$file"
	done <"$dir/.sources.new"
	mv "$dir/.sources.new" "$dir/.sources"
}
