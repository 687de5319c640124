// SPDX-License-Identifier: GPL-2.0-only
/*
 * The simulation's ways to run.
 *
 * A failure prints the seed, the operation and the command that replays it.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "history.h"
#include "hostile.h"
#include "sweep.h"

static void on_fail(void)
{
	if (takeover_now)
		fprintf(stderr, "  %s (%s)\n  replay: make -C tests/sim run ARGS=--takeover\n", takeover_now, world_what);
	if (sweep_now[0])
		fprintf(stderr, "  %s (%s)\n  replay: make -C tests/sim run ARGS='%s --replay'\n", sweep_now, world_what, sweep_replay);
	if (hostile_now[0])
		hostile_replay(stderr);
	if (scene_now)
		fprintf(stderr, "  %s\n  replay: make -C tests/sim run ARGS='--%s --seed %llu --replay'\n", world_what, scene_now, seed_now);
	if (!seed_now || sweep_now[0] || scene_now)
		return;
	fprintf(stderr, "  seed %llu, operation %llu (%s)\n", seed_now, world_op, world_what);
	fprintf(stderr, "  replay: ");
	if (opt.tool_percent)
		fprintf(stderr, "THIN_TOOLS=%s ", getenv("THIN_TOOLS"));
	if (opt.oracle_percent)
		fprintf(stderr, "THINFMT=%s ", getenv("THINFMT"));
	fprintf(stderr, "make -C tests/sim run ARGS='--seed %llu --ops %ld --cuts %u --tools %u --oracle %u --faults %u --replay'\n",
		seed_now, opt.ops_per_seed, opt.cut_percent, opt.tool_percent, opt.oracle_percent, opt.fault_percent);
}

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>

/* The last words of a run that a sanitizer ends. */
static void name_death(void)
{
	__sanitizer_set_death_callback(on_fail);
}
#else
static void name_death(void)
{
}
#endif

static void hang(int sig)
{
	(void)sig;
	sim_fail("no end is in sight");
}

static void print_stats(void)
{
	printf("sim: %llu operations, %llu commits, all checked; %llu inserts, %llu removals, %llu snapshots, %llu metadata snapshots, %llu resizes, %llu reopens, %llu aborts, %llu times out of space, %llu times with no metadata left, %llu retries, %llu failures made to happen, %llu deletes or releases in several commits, %llu stale inserts, %llu blocks taken over\n",
	       stats.ops, stats.commits, stats.inserts, stats.removed, stats.snaps, stats.holds, stats.resizes,
	       stats.reopens, stats.aborts, stats.nospace, stats.full, stats.again, stats.faults, stats.partial, stats.stale,
	       stats.takeovers);
	printf("sim: %llu commits in a second thread, %llu of these commits lost, %llu operations beside them\n",
	       stats.flights, stats.flights_lost, stats.beside);
	printf("sim: %llu power cuts, %llu different images of them, each opened and read (%llu of them written to); external judges: %llu images judged by thin_check 0.9 and 1.x and thin_dump, %llu images judged by another decoder; at most %d buffers held\n",
	       stats.cuts, stats.cut_images, stats.cut_opens, stats.tool_commits, stats.oracle, bufio_max_held_seen);
}

static void usage(FILE *f)
{
	fprintf(f, "usage: sim [--seed N | --seeds A-B] [--ops N] [--cuts PERCENT] [--tools PERCENT] [--oracle PERCENT] [--faults PERCENT]\n"
		   "           [--dir DIR] [--replay]\n"
		   "       sim --all-faults [--seeds A-B] [--ops N] | --sweep SEED:STEP:FAULT:N\n"
		   "       sim --hostile [--seeds A-B] | --hostile --seed N --only MUTATION | --hostile-file FILE [--only MUTATION]\n"
		   "       sim --takeover\n"
		   "       sim --flood | --shortage | --steps [--seeds A-B]\n"
		   "       sim --work KIND\n"
		   "       sim --fuzz-corpus DIR [FILE...]\n"
		   "       sim --image FILE ...      (see --image --help)\n");
}

int main(int argc, char **argv)
{
	u64 from = 1, to = 20, one = 0, only = 0, seed;
	void (*per_seed)(u64 seed) = history;
	void (*print)(void) = print_stats;
	const char *file = NULL;
	int step, fault, i;
	long n;

	sim_fail_hook = on_fail;
	name_death();
	signal(SIGALRM, hang);
	if (thin_meta_init())
		sim_fail("thin_meta_init() failed");
	opt.dir = "/tmp";
	opt.ops_per_seed = 400;
	if (argc > 1 && (!strcmp(argv[1], "--image") ||
			 !strcmp(argv[1], "--huge") || !strcmp(argv[1], "--tails") || !strcmp(argv[1], "--refused") || !strcmp(argv[1], "--make-xml")))
		return image_main(argc, argv);
	if (argc > 2 && !strcmp(argv[1], "--fuzz-corpus")) {
		hostile_corpus(argv[2], argv + 3, argc - 3);
		return 0;
	}
	if (argc == 3 && !strcmp(argv[1], "--work"))
		return work_main(argv[2]);
	if (argc == 2 && !strcmp(argv[1], "--takeover"))
		return takeover_main();
	for (i = 1; i < argc; i++) {
		const char *a = argv[i], *v = i + 1 < argc ? argv[i + 1] : NULL;

		if (!strcmp(a, "--replay")) {
			opt.verbose = true;
			sim_log_verbose = 1;
			continue;
		}
		if (!strcmp(a, "--all-faults")) {
			per_seed = sweep;
			print = sweep_print;
			continue;
		}
		if (!strcmp(a, "--hostile")) {
			per_seed = hostile;
			print = hostile_print;
			continue;
		}
		if (!strcmp(a, "--flood")) {
			per_seed = flood;
			print = flood_print;
			continue;
		}
		if (!strcmp(a, "--steps")) {
			per_seed = steps;
			print = steps_print;
			continue;
		}
		if (!strcmp(a, "--shortage")) {
			per_seed = shortage;
			print = shortage_print;
			continue;
		}
		if (!strcmp(a, "--help")) {
			usage(stdout);
			return 0;
		}
		if (!v)
			goto bad;
		i++;
		if (!strcmp(a, "--seed")) {
			from = to = strtoull(v, NULL, 0);
		} else if (!strcmp(a, "--seeds")) {
			if (sscanf(v, "%llu-%llu", &from, &to) != 2 || from > to)
				goto bad;
		} else if (!strcmp(a, "--sweep")) {
			if (sscanf(v, "%llu:%d:%d:%ld", &one, &step, &fault, &n) != 4)
				goto bad;
		} else if (!strcmp(a, "--hostile-file")) {
			file = v;
		} else if (!strcmp(a, "--only")) {
			only = strtoull(v, NULL, 0);
		} else if (!strcmp(a, "--ops")) {
			opt.ops_per_seed = atol(v);
		} else if (!strcmp(a, "--cuts")) {
			opt.cut_percent = atoi(v);
		} else if (!strcmp(a, "--tools")) {
			opt.tool_percent = atoi(v);
		} else if (!strcmp(a, "--oracle")) {
			opt.oracle_percent = atoi(v);
		} else if (!strcmp(a, "--faults")) {
			opt.fault_percent = atoi(v);
		} else if (!strcmp(a, "--dir")) {
			opt.dir = v;
		} else {
			goto bad;
		}
	}
	tools_setup();
	if (one) {
		sweep_one(one, step, fault, n);
		return 0;
	}
	if (file) {
		hostile_file(file, only);
		hostile_print();
		return 0;
	}
	if (only) {
		hostile_one(from, only);
		return 0;
	}
	for (seed = from; seed <= to; seed++)
		per_seed(seed);
	tools_exit();
	crash_exit();
	print();
	return 0;
bad:
	usage(stderr);
	return 2;
}
