# shellcheck shell=bash
# common.sh - what every script here shares: messages, the cache, locks, packages.
#
# Source it, do not run it:   . "$(dirname "$0")/lib/common.sh"
#
# Variables
#   SRC              root of this checkout
#   DM_THIN_CACHE    where everything built or fetched is kept (never in the checkout)
#   JOBS             how many compilers run at once
# Functions
#   step TEXT / note TEXT / warn TEXT     progress, all on stderr
#   die TEXT                              one sentence on what is wrong, exit 1
#   usage_error TEXT                      the same for bad arguments, exit 2
#   quietly LOG CMD...                    run CMD, output to LOG; on failure show its end
#   once NAME CMD...                      run CMD under a lock, so that two scripts never build one thing twice
#   need_root                             die unless root
#   need_host PKG...                      install Debian packages on this machine, said aloud, if they are missing
#   archive_uri / archive_keyring         where Debian's packages come from, as apt knows it
#   suite_apt SUITE CMD...                run apt-get or apt-cache as if only SUITE existed
#   suite_newest SUITE REGEX              newest package of SUITE whose whole name matches (version order of names)
#   suite_version SUITE PKG               version of PKG in SUITE
#   suite_fetch SUITE PKG                 download PKG of exactly SUITE, print the path of the .deb
#   unpack_deb DEB DIR                    unpack a .deb into DIR
#
# SUITE is a code name: bookworm, bookworm-backports, trixie, trixie-backports, forky, sid. The
# host needs none of them in its own configuration: each has a private apt root in the cache.

set -euo pipefail
shopt -s inherit_errexit

SRC=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)
DM_THIN_CACHE=${DM_THIN_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/dm-thin}
JOBS=${JOBS:-$(nproc)}
SUITE_INDEX_MAX_AGE_MIN=${SUITE_INDEX_MAX_AGE_MIN:-1440}
mkdir -p "$DM_THIN_CACHE/locks" "$DM_THIN_CACHE/debs" "$DM_THIN_CACHE/log" ||
	{ echo "error: the cache directory $DM_THIN_CACHE cannot be made" >&2; exit 1; }
export SRC DM_THIN_CACHE JOBS

step() { printf '==> %s\n' "$*" >&2; }
note() { printf '    %s\n' "$*" >&2; }
warn() { printf 'warning: %s\n' "$*" >&2; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }
usage_error() { printf 'error: %s (see --help)\n' "$*" >&2; exit 2; }

# Long commands keep the terminal readable: the whole story goes to a log, its end is shown on failure.
quietly() {
	local log=$1 rc=0
	shift
	"$@" >>"$log" 2>&1 </dev/null || rc=$?
	if [ "$rc" -ne 0 ]; then
		tail -n 30 "$log" >&2
		warn "'$1' failed with status $rc; the whole log is $log"
	fi
	return "$rc"
}

# The lock's descriptor is closed in CMD, or a daemon that CMD leaves behind would hold it for ever.
once() {
	local name=$1 fd rc=0
	shift
	exec {fd}>"$DM_THIN_CACHE/locks/$name"
	if ! flock -n "$fd"; then
		note "waiting for another script that is preparing '$name'"
		flock "$fd"
	fi
	# A subshell with errexit of its own: 'CMD || rc' would switch errexit off inside CMD.
	set +e
	( set -e; eval "exec $fd>&-"; "$@" )
	rc=$?
	set -e
	exec {fd}>&-
	return "$rc"
}

need_root() {
	[ "$(id -u)" -eq 0 ] || die "this needs root (it installs packages and makes root file systems)"
}

installed() {
	[ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

need_host() {
	local pkg missing=()
	for pkg in "$@"; do
		installed "$pkg" || missing+=("$pkg")
	done
	[ "${#missing[@]}" -gt 0 ] || return 0
	once host-packages install_host "${missing[@]}"
}

install_host() {
	local log=$DM_THIN_CACHE/log/host-packages.log
	need_root
	step "Installing on this machine: $*"
	quietly "$log" apt-get update || true
	quietly "$log" env DEBIAN_FRONTEND=noninteractive \
		apt-get install -y --no-install-recommends "$@" ||
		die "apt-get could not install: $*"
}

# apt itself knows the mirror; the first repository whose origin is Debian and that
# carries the main archive (not -security, -updates) is the one that carries every suite.
archive_uri() {
	local uri
	uri=${DM_THIN_MIRROR:-}
	if [ -z "$uri" ]; then
		uri=$(find_archive_uri)
	fi
	if [ -z "$uri" ]; then
		need_root
		quietly "$DM_THIN_CACHE/log/host-packages.log" apt-get update || true
		uri=$(find_archive_uri)
	fi
	[ -n "$uri" ] ||
		die "apt on this machine knows no Debian archive; set DM_THIN_MIRROR to the address of one"
	printf '%s\n' "${uri%/}"
}

find_archive_uri() {
	# shellcheck disable=SC2016  # apt's own placeholders
	apt-get indextargets --format '$(ORIGIN) $(CODENAME) $(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
		awk '$1 == "Debian" && $2 !~ /-/ { print $3; exit }'
}

# Keys of every suite, also of those newer than this machine.
archive_keyring() {
	need_host debian-archive-keyring
	printf '%s\n' /usr/share/keyrings/debian-archive-keyring.gpg
}

# Security updates are where a machine that gets them has them; without, the point release must do.
find_security_uri() {
	[ -z "${DM_THIN_MIRROR:-}" ] || return 0
	# shellcheck disable=SC2016  # apt's own placeholders
	apt-get indextargets --format '$(ORIGIN) $(CODENAME) $(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
		awk '$1 == "Debian" && $2 ~ /-security$/ && !uri { uri = $3 } END { print uri }'
}

suite_root() { printf '%s\n' "$DM_THIN_CACHE/apt/$1"; }

suite_setup() {
	local suite=$1 root uri security keyring stamp
	case $suite in
	bookworm | bookworm-backports | trixie | trixie-backports | forky | sid) ;;
	*) die "unknown Debian suite '$suite'" ;;
	esac
	root=$(suite_root "$suite")
	stamp=$root/updated
	# An index that is fresh enough is used as it is: tests must not depend on a network that works now.
	if [ -e "$stamp" ] && [ -z "$(find "$stamp" -mmin "+$SUITE_INDEX_MAX_AGE_MIN")" ]; then
		return 0
	fi
	uri=$(archive_uri)
	keyring=$(archive_keyring)
	mkdir -p "$root/etc" "$root/lists/partial" "$root/archives/partial"
	: >"$root/status"
	printf 'deb [signed-by=%s] %s %s main\n' "$keyring" "$uri" "$suite" >"$root/etc/sources.list"
	security=$(find_security_uri)
	if [ -n "$security" ] && [[ $suite != *-backports && $suite != sid ]]; then
		printf 'deb [signed-by=%s] %s %s-security main\n' "$keyring" "${security%/}" "$suite" >>"$root/etc/sources.list"
	fi
	# The host's apt.conf.d stays in force: it may hold a proxy.
	cat >"$root/apt.conf" <<-CONF
		Dir::Etc::sourcelist "$root/etc/sources.list";
		Dir::Etc::sourceparts "/dev/null";
		Dir::Etc::preferences "/dev/null";
		Dir::Etc::preferencesparts "/dev/null";
		Dir::State::lists "$root/lists";
		Dir::State::status "$root/status";
		Dir::Cache "$root";
		Dir::Cache::archives "$root/archives";
		Acquire::Languages "none";
		APT::Sandbox::User "root";
		APT::Update::Post-Invoke "";
	CONF
	note "reading the package index of $suite"
	if quietly "$DM_THIN_CACHE/log/apt-$suite.log" \
		env APT_CONFIG="$root/apt.conf" apt-get update; then
		touch "$stamp"
	elif [ -e "$stamp" ]; then
		warn "the package index of $suite could not be refreshed; using the old one"
	else
		die "the package index of $suite could not be read from the Debian archive"
	fi
}

suite_apt() {
	local suite=$1
	shift
	once "apt-$suite" suite_setup "$suite"
	APT_CONFIG=$(suite_root "$suite")/apt.conf "$@"
}

suite_newest() {
	local suite=$1 regex=$2 found
	found=$(suite_apt "$suite" apt-cache pkgnames | grep -Ex "$regex" | sort -V | tail -n 1) || true
	[ -n "$found" ] || die "no package of $suite has a name like '$regex'"
	printf '%s\n' "$found"
}

suite_version() {
	local found
	found=$(suite_apt "$1" apt-cache show --no-all-versions "$2" 2>/dev/null | sed -n 's/^Version: //p' | head -n 1) || true
	[ -n "$found" ] || die "Debian $1 has no package '$2'"
	printf '%s\n' "$found"
}

suite_fetch() {
	local suite=$1 pkg=$2 version file
	version=$(suite_version "$suite" "$pkg")
	for file in "$DM_THIN_CACHE/debs/${pkg}_${version//:/%3a}"_*.deb; do
		[ -e "$file" ] && { printf '%s\n' "$file"; return 0; }
	done
	once "fetch-$pkg" fetch_deb "$suite" "$pkg" "$version"
	for file in "$DM_THIN_CACHE/debs/${pkg}_${version//:/%3a}"_*.deb; do
		[ -e "$file" ] && { printf '%s\n' "$file"; return 0; }
	done
	die "package $pkg $version of $suite was not downloaded"
}

# Downloaded aside and moved in when whole: a broken download is never taken for a package.
fetch_deb() {
	local suite=$1 pkg=$2 version=$3 dir
	dir=$(mktemp -d "$DM_THIN_CACHE/debs/.fetch.XXXXXX")
	note "downloading $pkg $version ($suite)"
	if ! (cd "$dir" && suite_apt "$suite" apt-get -qq download "$pkg=$version" >&2); then
		rm -rf "$dir"
		die "package $pkg $version of $suite could not be downloaded"
	fi
	mv "$dir"/*.deb "$DM_THIN_CACHE/debs/"
	rm -rf "$dir"
}

unpack_deb() {
	mkdir -p "$2"
	dpkg-deb -x "$1" "$2"
}
