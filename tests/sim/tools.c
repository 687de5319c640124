// SPDX-License-Identifier: GPL-2.0-only
/*
 * Judges that no one here wrote: thin_check and thin_dump of both generations
 * and, when there is one, an external decoder of the format.
 *
 *   THIN_TOOLS   directory with thin_check-0.9, thin_check-1, thin_dump-0.9, thin_dump-1
 *   THINFMT      a Python script that judges an image: THINFMT --strict -q FILE exits with 0
 */
#include <linux/kernel.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include "world.h"

extern char **environ;

/* Judges run beside the simulation: thin_check 1.x sleeps half a second each time. */
#define MAX_SLOTS 24

struct slot {
	pid_t pid;
	bool dump;
	u64 seed, op;
	char what[80];
	char image[256], output[256], errors[256];
};

static struct slot slots[MAX_SLOTS];
static const char *tools_dir, *thinfmt;

void tools_setup(void)
{
	struct slot *s;

	tools_dir = getenv("THIN_TOOLS");
	thinfmt = getenv("THINFMT");
	if (opt.tool_percent && !tools_dir)
		sim_fail("--tools needs the directory of the thin tools in THIN_TOOLS");
	if (opt.oracle_percent && !thinfmt)
		sim_fail("--oracle needs the path of the external decoder in THINFMT");
	for (s = slots; s < slots + MAX_SLOTS; s++) {
		snprintf(s->image, sizeof(s->image), "%s/image.%d.%d", opt.dir, getpid(), (int)(s - slots));
		snprintf(s->output, sizeof(s->output), "%s/output.%d.%d", opt.dir, getpid(), (int)(s - slots));
		snprintf(s->errors, sizeof(s->errors), "%s/errors.%d.%d", opt.dir, getpid(), (int)(s - slots));
	}
}

static void fail_slot(struct slot *s, const char *why)
{
	char text[600];
	size_t n = 0;
	FILE *f = fopen(s->errors, "r");

	if (f) {
		n = fread(text, 1, sizeof(text) - 1, f);
		fclose(f);
	}
	text[n] = 0;
	/* The simulation has gone on since: the replay is for where the image was taken. */
	seed_now = s->seed;
	world_op = s->op;
	world_what = s->what;
	sim_fail("%s: %s (image kept as %s)", why, text, s->image);
}

static void finish(struct slot *s, int status)
{
	struct check_result res;
	struct disk *d;

	s->pid = 0;
	if (!WIFEXITED(status) || WEXITSTATUS(status))
		fail_slot(s, "an external judge rejects the image");
	if (s->dump) {
		d = disk_load(s->image, 0);
		if (check_image(d, &res, 0))
			fail_slot(s, res.err);
		tools_compare_xml(s->output, &res);
		check_free(&res);
		disk_free(d);
	}
}

static void reap(void)
{
	struct slot *s;
	int status;
	pid_t pid = waitpid(-1, &status, 0);

	for (s = slots; s < slots + MAX_SLOTS; s++)
		if (s->pid == pid) {
			finish(s, status);
			return;
		}
	sim_fail("waitpid: no judge has the id %d", pid);
}

void tools_exit(void)
{
	struct slot *s;

	for (s = slots; s < slots + MAX_SLOTS; s++)
		while (s->pid)
			reap();
	for (s = slots; s < slots + MAX_SLOTS; s++) {
		unlink(s->image);
		unlink(s->output);
		unlink(s->errors);
	}
}

static struct slot *free_slot(void)
{
	struct slot *s;

	for (;;) {
		for (s = slots; s < slots + MAX_SLOTS; s++)
			if (!s->pid)
				return s;
		reap();
	}
}

/* ---- thin_dump's XML ---- */

static bool attr(const char *line, const char *name, u64 *v)
{
	char key[64];
	const char *p;

	snprintf(key, sizeof(key), " %s=\"", name);
	p = strstr(line, key);
	if (!p)
		return false;
	*v = strtoull(p + strlen(key), NULL, 10);
	return true;
}

static u64 need(const char *line, const char *name)
{
	u64 v;

	if (!attr(line, name, &v))
		sim_fail("thin_dump: no %s in: %s", name, line);
	return v;
}

struct list {
	struct mapping *m;
	size_t nr, cap;
};

struct part {
	char name[64];
	struct list list;
};

static void push(struct list *l, const struct mapping *add, size_t n)
{
	if (l->nr + n > l->cap) {
		l->cap = 2 * (l->nr + n);
		l->m = realloc(l->m, l->cap * sizeof(*l->m));
		if (!l->m)
			sim_fail("the machine is out of memory");
	}
	if (n)
		memcpy(l->m + l->nr, add, n * sizeof(*l->m));
	l->nr += n;
}

void tools_compare_xml(const char *path, const struct check_result *res)
{
	struct part *parts = NULL, *part = NULL, *into;
	size_t nr_parts = 0, dev = 0, i, k;
	const struct check_dev *c = NULL;
	struct list here = { NULL, 0, 0 };
	struct mapping one;
	char line[1024], name[64];
	FILE *f = fopen(path, "r");
	u64 len;

	if (!f)
		sim_fail("cannot read %s", path);
	while (fgets(line, sizeof(line), f)) {
		if (strstr(line, "<superblock ")) {
			if (need(line, "time") != res->time || need(line, "transaction") != res->trans_id ||
			    need(line, "data_block_size") != res->data_block_size ||
			    need(line, "nr_data_blocks") != res->data.nr_blocks)
				sim_fail("thin_dump: the superblock differs: %s", line);
		} else if (strstr(line, "<def ")) {
			parts = realloc(parts, (nr_parts + 1) * sizeof(*parts));
			part = &parts[nr_parts++];
			memset(part, 0, sizeof(*part));
			if (sscanf(strstr(line, "name=\"") + 6, "%63[^\"]", part->name) != 1)
				sim_fail("thin_dump: %s", line);
		} else if (strstr(line, "</def>")) {
			part = NULL;
		} else if (strstr(line, "<device ")) {
			if (dev >= res->live.nr)
				sim_fail("thin_dump: one device too many: %s", line);
			c = &res->live.devs[dev++];
			if (need(line, "dev_id") != c->id || need(line, "mapped_blocks") != c->mapped ||
			    need(line, "transaction") != c->trans || need(line, "creation_time") != c->ctime ||
			    need(line, "snap_time") != c->stime)
				sim_fail("thin_dump: device %llu differs: %s", c->id, line);
			here.nr = 0;
		} else if (strstr(line, "</device>")) {
			if (here.nr != c->nr)
				sim_fail("thin_dump: device %llu has %zu mappings, should have %zu", c->id, here.nr, c->nr);
			for (i = 0; i < here.nr; i++) {
				one = here.m[i];
				if (one.v != c->maps[i].v || one.b != c->maps[i].b || one.t != c->maps[i].t)
					sim_fail("thin_dump: device %llu maps %llu to %llu, should map %llu to %llu",
						 c->id, one.v, one.b, c->maps[i].v, c->maps[i].b);
			}
		} else if (strstr(line, "<ref ")) {
			if (sscanf(strstr(line, "name=\"") + 6, "%63[^\"]", name) != 1)
				sim_fail("thin_dump: %s", line);
			into = NULL;
			for (i = 0; i < nr_parts; i++)
				if (!strcmp(parts[i].name, name))
					into = &parts[i];
			if (!into)
				sim_fail("thin_dump: reference to an unknown part: %s", line);
			push(part ? &part->list : &here, into->list.m, into->list.nr);
		} else if (strstr(line, "<single_mapping ") || strstr(line, "<range_mapping ")) {
			bool single = strstr(line, "<single_mapping ");

			len = single ? 1 : need(line, "length");
			one.v = need(line, single ? "origin_block" : "origin_begin");
			one.b = need(line, single ? "data_block" : "data_begin");
			one.t = need(line, "time");
			for (k = 0; k < len; k++, one.v++, one.b++)
				push(part ? &part->list : &here, &one, 1);
		}
	}
	fclose(f);
	if (dev != res->live.nr)
		sim_fail("thin_dump: %zu devices, should be %zu", dev, res->live.nr);
	for (i = 0; i < nr_parts; i++)
		free(parts[i].list.m);
	free(parts);
	free(here.m);
}

/* The end: the image is kept, and all judges say what they think of it. */
void tools_condemn(const struct disk *d, const char *fmt, ...)
{
	char image[256], command[2048], text[600];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	snprintf(image, sizeof(image), "%s/condemned.%d", opt.dir, getpid());
	disk_save(d, image);
	if (tools_dir) {
		snprintf(command, sizeof(command),
			 "for t in 0.9 1; do echo \"  thin_check-$t:\"; '%s/'thin_check-$t '%s' | tail -n 3; done >&2 2>&1",
			 tools_dir, image);
		if (system(command))
			fprintf(stderr, "  the judges do not run\n");
	}
	if (thinfmt) {
		snprintf(command, sizeof(command), "\"${PYTHON:-python3}\" '%s' --strict -q '%s' >&2 || echo '  another decoder: bad' >&2",
			 thinfmt, image);
		if (system(command))
			fprintf(stderr, "  the decoder does not run\n");
	}
	sim_fail("%s (image kept as %s)", text, image);
}

void tools_judge(const struct disk *d, bool tools, bool oracle)
{
	static const char script[] =
		"image=$1 output=$2 errors=$3 tools=$4 dump=$5 decoder=$6\n"
		": >\"$errors\"\n"
		"if [ \"$tools\" ]; then\n"
		"	\"$tools/thin_check-0.9\" \"$image\" >>\"$errors\" 2>&1 || { echo 'thin_check 0.9' >>\"$errors\"; exit 1; }\n"
		"	\"$tools/thin_check-1\" -q \"$image\" >>\"$errors\" 2>&1 || { echo 'thin_check 1.x' >>\"$errors\"; exit 1; }\n"
		"	\"$tools/$dump\" \"$image\" >\"$output\" 2>>\"$errors\" || { echo 'thin_dump' >>\"$errors\"; exit 1; }\n"
		"fi\n"
		"[ -z \"$decoder\" ] || \"${PYTHON:-python3}\" \"$decoder\" --strict -q \"$image\" >>\"$errors\" 2>&1\n";
	struct slot *s = free_slot();
	char *argv[] = {
		"sh", "-c", (char *)script, "judge", s->image, s->output, s->errors,
		(char *)(tools ? tools_dir : ""),
		stats.tool_commits % 2 ? "thin_dump-0.9" : "thin_dump-1",
		(char *)(oracle ? thinfmt : ""), NULL
	};

	/* A new file each time: a judge may still map the old one. */
	unlink(s->image);
	disk_save(d, s->image);
	s->dump = tools;
	s->seed = seed_now;
	s->op = world_op;
	snprintf(s->what, sizeof(s->what), "%s", world_what);
	if (posix_spawn(&s->pid, "/bin/sh", NULL, NULL, argv, environ))
		sim_fail("/bin/sh does not start");
	stats.tool_commits += tools;
	stats.oracle += oracle;
}
