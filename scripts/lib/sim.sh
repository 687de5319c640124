# shellcheck shell=bash
# sim.sh - the metadata layer in user space: builds tests/sim, runs it, counts.
#
# Source it after common.sh.
#
#   sim_test [-k PATTERN] [--seeds A-B | --hours H | --coverage]
#                            run the tests whose names contain PATTERN; the last line is 'N passed, N failed'
#
# With --seeds, all kinds of histories of these seeds instead; with --hours, of new ones for so long; with --coverage
# lines and branches reached, and the reasons for the others.
#
# A test is one run of the simulation: a batch of seeded histories, or one image of another
# writer. A batch that fails prints its seed and the command that replays it.
#
# The thin tools come with the guests' root (rootfs.sh). A further judge of images is used where
# there is one: THINFMT, or ../shared/oracle beside the checkout, may hold a decoder of the format.

SIM_JOBS=${SIM_JOBS:-2}

# Batches of ten seeds: plain histories, with power cuts, with failing allocations, reads, writes and
# flushes, with the external judges.
SIM_PLAIN_BATCHES=${SIM_PLAIN_BATCHES:-12}
SIM_CUT_BATCHES=${SIM_CUT_BATCHES:-6}
SIM_FAULT_BATCHES=${SIM_FAULT_BATCHES:-10}
SIM_TOOL_BATCHES=${SIM_TOOL_BATCHES:-10}
# Pools in which every n-th call fails, and images of which every field is set to what it must not be.
SIM_SWEEP_BATCHES=${SIM_SWEEP_BATCHES:-1}
SIM_HOSTILE_IMAGES=${SIM_HOSTILE_IMAGES:-2}

sim_build() {
	need_host gcc make libc6-dev xz-utils valgrind python3
	sim_dir=$DM_THIN_CACHE/sim
	mkdir -p "$sim_dir"
	quietly "$DM_THIN_CACHE/log/sim-build.log" \
		make -C "$SRC/tests/sim" -j "$JOBS" O="$sim_dir" CC=gcc EXTRA=-Werror ||
		die "the simulation does not compile"
	# Without sanitizers: a process for each failure is cheap, and instructions are the layer's own.
	quietly "$DM_THIN_CACHE/log/sim-build.log" \
		make -C "$SRC/tests/sim" -j "$JOBS" O="$sim_dir/plain" CC=gcc SAN= EXTRA="-Werror -O2" ||
		die "the simulation does not compile without sanitizers"
	# A build of another checkout may go on in the cache meanwhile.
	sim_bin=$sim_work/sim
	sim_plain=$sim_work/sim-plain
	cp "$sim_dir/sim" "$sim_bin"
	cp "$sim_dir/plain/sim" "$sim_plain"
}

sim_find_oracle() {
	sim_oracle=${THINFMT:-$SRC/../shared/oracle/thinfmt.py}
	[ -e "$sim_oracle" ] && command -v python3 >/dev/null || sim_oracle=
	# The interpreter itself: a version manager's wrapper costs more than the judgement.
	if [ -n "$sim_oracle" ]; then
		PYTHON=$(python3 -c 'import sys; print(sys.executable)')
		export PYTHON
	fi
	sim_golden=$SRC/../shared/oracle/golden
}

# One test: its name, then the command. Quiet unless it fails. Never called as a condition: errexit
# would be off in the command.
sim_run() {
	local name=$1 started=$SECONDS log=$sim_work/$1.log rc
	shift
	set +e
	(set -e; "$@") >"$log" 2>&1 </dev/null
	rc=$?
	set -e
	if [ "$rc" -eq 0 ]; then
		echo "ok   $name ($((SECONDS - started)) s)"
		grep -h '^sim: ' "$log" >>"$sim_work/totals" || true
		: >"$sim_work/passed.$name"
	else
		echo "FAIL $name"
		grep -v '^sim:' "$log" | tail -n 40
		: >"$sim_work/failed.$name"
	fi
}

# Parts of a test that need more than one command.

sim_golden_image() {
	local xz=$1 img
	img=$sim_work/$(basename "$xz" .xz)
	xz -dc "$xz" >"$img"
	"$PYTHON" "$sim_oracle" --xml "$img" >"$img.xml"
	"$sim_bin" --image "$img" --lax --xml "$img.xml" --grow-data 120000 --fill --out "$img.grown"
	sim_tools_agree "$img.grown"
	# The small ones also with every field set to what it must not be.
	[ "$(stat -c %s "$img")" -gt 4194304 ] || "$sim_plain" --hostile-file "$img"
	rm -f "$img" "$img.xml" "$img.grown"
}

sim_tools_agree() {
	"$sim_tools/thin_check-0.9" "$1"
	"$sim_tools/thin_check-1" -q "$1"
	if [ -n "$sim_oracle" ]; then "$PYTHON" "$sim_oracle" -q "$1"; fi
}

# Metadata of thin_restore: read, grown by what follows the last block, filled to the last block.
sim_restored() {
	local version=$1 mappings=$2 blocks=$3 grown=$4 size=$5 img=$sim_work/restored-$1-$2-$3
	"$sim_bin" --make-xml "$img.xml" --mappings "$mappings" --data-blocks "$blocks"
	truncate -s "$size" "$img"
	"$sim_tools/thin_restore-$version" -i "$img.xml" -o "$img"
	"$sim_bin" --image "$img" --lax --xml "$img.xml" --grow-data "$grown" --fill --out "$img.grown"
	sim_tools_agree "$img.grown"
	# Data blocks are left over here: a snapshot of the largest device, and the device, are deleted.
	if [ "$blocks" -gt "$mappings" ]; then
		"$sim_bin" --image "$img" --lax --delete --out "$img.grown"
		sim_tools_agree "$img.grown"
	fi
	rm -f "$img" "$img.xml" "$img.grown"
}

# The kinds of histories, for the ten seeds from $1 on.
sim_seeds() {
	local from=$1 to=$2
	printf 'histories-%d\t%s\n' "$from" "$sim_bin --seeds $from-$to --ops 500"
	printf 'power-cuts-%d\t%s\n' "$from" \
		"$sim_plain --seeds $from-$to --ops 250 --cuts 100 --tools 1 ${sim_oracle:+--oracle 1} --dir $sim_work"
	printf 'failures-%d\t%s\n' "$from" "$sim_bin --seeds $from-$to --ops 400 --faults 20"
	printf 'all-faults-%d\t%s\n' "$from" "$sim_plain --all-faults --seeds $from-$to --ops 200"
	printf 'hostile-%d\t%s\n' "$from" "$sim_bin --hostile --seeds $from-$from"
}

sim_range() {
	local from
	for ((from = $1; from <= $2; from += 10)); do
		sim_seeds "$from" $((from + 9 < $2 ? from + 9 : $2))
	done
}

# New seeds without end, from where the last run came to.
sim_forever() {
	local from
	from=$(cat "$DM_THIN_CACHE/sim/next-seed" 2>/dev/null || echo 100001)
	for (( ; ; from += 10)); do
		sim_seeds "$from" $((from + 9))
	done
}

sim_list() {
	local n xz version
	for ((n = 0; n < SIM_PLAIN_BATCHES; n++)); do
		printf 'histories-%d\t%s\n' "$n" "$sim_bin --seeds $((n * 10 + 1))-$((n * 10 + 10)) --ops 500"
	done
	for ((n = 0; n < SIM_CUT_BATCHES; n++)); do
		printf 'power-cuts-%d\t%s\n' "$n" \
			"$sim_bin --seeds $((n * 10 + 1001))-$((n * 10 + 1010)) --ops 250 --cuts 30"
	done
	for ((n = 0; n < SIM_FAULT_BATCHES; n++)); do
		printf 'failures-%d\t%s\n' "$n" \
			"$sim_bin --seeds $((n * 10 + 3001))-$((n * 10 + 3010)) --ops 400 --faults 20"
	done
	for ((n = 0; n < SIM_TOOL_BATCHES; n++)); do
		printf 'thin-tools-%d\t%s\n' "$n" \
			"$sim_bin --seeds $((n * 10 + 2001))-$((n * 10 + 2010)) --ops 400 --tools 30 --cuts 1 ${sim_oracle:+--oracle 2} --dir $sim_work"
	done
	if [ -n "$sim_oracle" ]; then
		for xz in "$sim_golden"/*.img.xz; do
			[ ! -e "$xz" ] || printf 'golden-%s\t%s\n' "$(basename "$xz" .img.xz)" "sim_golden_image $xz"
		done
	fi
	for version in 0.9 1; do
		printf 'restored-%s-small\t%s\n' "$version" "sim_restored $version 20000 20100 50000 8M"
		printf 'restored-%s-million-full\t%s\n' "$version" "sim_restored $version 1000000 1000000 1060001 96M"
		printf 'restored-%s-million-free\t%s\n' "$version" "sim_restored $version 1000000 1000123 1060001 96M"
	done
	printf 'sixteen-gibibytes\t%s\n' "$sim_bin --huge"
	printf 'tails\t%s\n' "$sim_bin --tails"
	printf 'refused\t%s\n' "$sim_bin --refused"
	printf 'takeover\t%s\n' "$sim_bin --takeover"
	printf 'slow-commit\t%s\n' "$sim_bin --flood --seeds 1-4"
	printf 'shortage\t%s\n' "$sim_plain --shortage --seeds 1-2"
	printf 'steps\t%s\n' "$sim_plain --steps --seeds 1-2 --tools 2 ${sim_oracle:+--oracle 1} --dir $sim_work"
	printf 'all-faults-sanitized\t%s\n' "$sim_bin --all-faults --seeds 4-4 --ops 40"
	for ((n = 0; n < SIM_SWEEP_BATCHES; n++)); do
		printf 'all-faults-%d\t%s\n' "$n" \
			"$sim_plain --all-faults --seeds $((n * 10 + 1))-$((n * 10 + 10)) --ops 200"
	done
	for ((n = 1; n <= SIM_HOSTILE_IMAGES; n++)); do
		printf 'hostile-%d\t%s\n' "$n" "$sim_bin --hostile --seeds $n-$n"
	done
	printf 'instructions\t%s\n' "$SRC/tests/sim/count $sim_plain"
}

# What the runs counted, added up by name.
sim_totals() {
	[ ! -s "$sim_work/totals" ] || sed 's/^sim: //; s/[:;]/,/g; s/ (/, /g; s/)//g' "$sim_work/totals" | tr ',' '\n' | awk '
		$1 ~ /^[0-9]+$/ { n = $1; $1 = ""; sum[$0] += n }
		END { for (name in sum) printf "%14d%s\n", sum[name], name }' | sort -rn
}

# What all kinds of runs together reach of the layer, and why not the rest.
sim_coverage() {
	local dir=$DM_THIN_CACHE/sim/coverage sim
	sim=$dir/sim
	find "$dir" -name '*.gcda' -delete 2>/dev/null || true
	quietly "$DM_THIN_CACHE/log/sim-build.log" make -C "$SRC/tests/sim" -j "$JOBS" O="$dir" CC=gcc SAN=--coverage ||
		die "the simulation does not compile for coverage"
	{
		"$sim" --seeds 1-60 --ops 400
		"$sim" --seeds 1001-1006 --ops 200 --cuts 20
		"$sim" --seeds 3001-3060 --ops 400 --faults 20
		"$sim" --all-faults --seeds 1-12 --ops 150
		"$sim" --hostile --seeds 1-2
		"$sim" --huge
		"$sim" --tails
		"$sim" --refused
		"$sim" --flood --seeds 1-1
		"$sim" --shortage --seeds 1-2
		"$sim" --steps --seeds 1-2
	} >/dev/null
	if ! "$SRC/tests/sim/coverage" "$dir"; then
		echo '0 passed, 1 failed'
		return 1
	fi
	echo '1 passed, 0 failed'
}

# What failed stays to be looked at, one run of it, out of memory.
sim_clean() {
	local kept=$DM_THIN_CACHE/log/sim-failed
	if compgen -G "$sim_work/failed.*" >/dev/null; then
		rm -rf "$kept"
		cp -r --sparse=always "$sim_work" "$kept"
		note "logs and images of the failure are kept in $kept"
	fi
	rm -rf "$sim_work"
}

sim_test() {
	local pattern='' seconds='' name command total passed list=(sim_list) started
	while [ $# -gt 0 ]; do
		case $1 in
		-k)
			[ $# -gt 1 ] || usage_error "-k wants a pattern"
			pattern=$2
			shift
			;;
		--seeds)
			[[ ${2:-} =~ ^([0-9]+)-([0-9]+)$ ]] || usage_error "--seeds wants A-B"
			list=(sim_range "${BASH_REMATCH[1]}" "${BASH_REMATCH[2]}")
			shift
			;;
		--hours)
			[[ ${2:-} =~ ^[0-9]*\.?[0-9]+$ ]] || usage_error "--hours wants a number"
			list=(sim_forever)
			seconds=$(awk -v h="$2" 'BEGIN { printf "%d", h * 3600 }')
			shift
			;;
		--coverage) list=(sim_coverage) ;;
		*) usage_error "unknown argument '$1' of sim" ;;
		esac
		shift
	done
	# shellcheck source=scripts/lib/rootfs.sh
	. "$SRC/scripts/lib/rootfs.sh"
	if [ "${list[*]}" = sim_coverage ]; then
		need_host gcc make libc6-dev python3
		sim_coverage
		return
	fi
	sim_work=$(mktemp -d /dev/shm/dm-thin-sim.XXXXXX 2>/dev/null || mktemp -d)
	trap sim_clean EXIT
	sim_build
	thin_tools_prepare
	sim_tools=$(thin_tools_dir)
	sim_find_oracle
	export THIN_TOOLS=$sim_tools THINFMT=$sim_oracle
	total=0 started=$SECONDS
	while IFS=$'\t' read -r name command; do
		[[ $name == *"$pattern"* ]] || continue
		while [ "$(jobs -rp | wc -l)" -ge "$SIM_JOBS" ]; do wait -n || true; done
		if [ -n "$seconds" ]; then
			[ $((SECONDS - started)) -lt "$seconds" ] || break
			[[ $name != histories-* ]] || echo $((${name##*-} + 10)) >"$DM_THIN_CACHE/sim/next-seed"
		fi
		total=$((total + 1))
		# shellcheck disable=SC2086  # a command line of our own, without spaces in its words
		sim_run "$name" $command &
	done < <("${list[@]}")
	wait || true
	sim_totals
	passed=$(find "$sim_work" -name 'passed.*' | wc -l)
	echo "$passed passed, $((total - passed)) failed"
	# As pytest says it when a pattern chooses nothing.
	[ "$total" -gt 0 ] || return 5
	[ "$passed" -eq "$total" ]
}
