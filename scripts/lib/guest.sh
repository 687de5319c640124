# shellcheck shell=bash
# guest.sh - what every back end of scripts/vm needs: run a guest that cannot outlive us, keep its
# output apart, judge its console.
#
# Functions (common.sh must be sourced first)
#   run_guest SECONDS CMD...     run CMD as a child that dies with this script and after SECONDS.
#                                Status: CMD's own, or 124 if it had to be killed for its time.
#                                Call it from the script's main shell, not in a subshell: the
#                                kernel ties the child to the process that started it.
#   output_pipe VAR FILE         set VAR to a descriptor that a `cat` copies to FILE (/dev/stdout, ...). Guests make
#                                their descriptors non-blocking, which must not reach our caller's terminal or pipe.
#   output_drain                 wait until all of output_pipe's data has come out
#   module_build_dir KERNEL      print the module's build directory for KERNEL and this checkout
#   console_complaints FILE      print the lines by which a kernel says that something is wrong; status 0 if any

GUEST_PID=
GUEST_PIPES=()

run_guest() {
	local limit=$1 rc=0 sleeper
	shift
	setpriv --pdeathsig KILL -- "$@" &
	GUEST_PID=$!
	setpriv --pdeathsig KILL -- sleep "$limit" </dev/null >/dev/null 2>&1 &
	sleeper=$!
	wait -n "$GUEST_PID" "$sleeper" || rc=$?
	if kill -0 "$GUEST_PID" 2>/dev/null && ! kill -0 "$sleeper" 2>/dev/null; then
		kill -KILL "$GUEST_PID" 2>/dev/null || true
		rc=124
	fi
	kill "$sleeper" 2>/dev/null || true
	wait "$sleeper" 2>/dev/null || true
	wait "$GUEST_PID" 2>/dev/null || true
	GUEST_PID=
	return "$rc"
}

# For the trap of scripts/vm.
kill_guest() {
	[ -z "$GUEST_PID" ] || kill -KILL "$GUEST_PID" 2>/dev/null || true
	GUEST_PID=
}

output_pipe() {
	local -n var=$1
	local fd
	case $2 in
	/dev/stdout) exec {fd}> >(exec cat) ;;
	/dev/stderr) exec {fd}> >(exec cat >&2) ;;
	*) exec {fd}> >(exec cat >>"$2") ;;
	esac
	GUEST_PIPES+=("$fd:$!")
	# shellcheck disable=SC2034  # a reference to the caller's variable
	var=$fd
}

output_drain() {
	local pair fd
	for pair in "${GUEST_PIPES[@]}"; do
		fd=${pair%%:*}
		exec {fd}>&-
	done
	for pair in "${GUEST_PIPES[@]}"; do
		wait "${pair##*:}" 2>/dev/null || true
	done
	GUEST_PIPES=()
}

# Two checkouts must not take each other's objects for their own.
module_build_dir() {
	local key
	key=$(printf '%s' "$SRC" | sha256sum)
	printf '%s\n' "$DM_THIN_CACHE/module/${key:0:8}/$1"
}

# Lines of a healthy boot that look like complaints are taken out first.
console_complaints() {
	grep -aE \
		-e 'BUG: |kernel BUG at|WARNING: |Oops|general protection fault|unable to handle|Unable to handle' \
		-e 'KASAN: |KFENCE: |KCSAN: |UBSAN: |refcount_t: |ODEBUG: |list_(add|del) corruption' \
		-e 'possible (circular|recursive) locking|inconsistent lock state|lock held when returning|bad unlock balance' \
		-e 'suspicious RCU usage|sleeping function called from invalid context|scheduling while atomic' \
		-e 'INFO: task .* blocked for more than|soft lockup|hard LOCKUP|rcu.*(detected|self-detected) stall|rcu_.* kthread starved' \
		-e 'init: unreferenced object 0x' \
		-e 'Kernel panic|Attempted to kill init|Segfault with no mm|Slab .* (corruption|Objects remaining)|Objects remaining' \
		-e 'workqueue: .* hogged CPU.*BUG' \
		-e 'dm_bufio.*leaked|leaked buffer' \
		"$1" | grep -avE 'Kernel command line:|Spectre V2 : WARNING: Unprivileged eBPF|WARNING: Support for this .* is deprecated' | head -n 40 | grep -a .
}
