// SPDX-License-Identifier: GPL-2.0-only
/*
 * Judges that no one here wrote: thin_check and thin_dump of both generations
 * and, when there is one, an external decoder of the format.
 *
 *   THIN_TOOLS   directory with thin_check-0.9, thin_check-1, thin_dump-0.9, thin_dump-1
 *   THINFMT      a Python decoder with class Meta(path).check() (errors, leaks, warnings)
 */
#include <linux/kernel.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include "world.h"

extern char **environ;

static char image[256], output[256], errors[256];
static const char *tools_dir;
static FILE *oracle_in, *oracle_out;
static pid_t oracle_pid;

static void start_oracle(const char *thinfmt)
{
	static const char script[] =
		"import sys, os, importlib.util\n"
		"spec = importlib.util.spec_from_file_location('thinfmt', sys.argv[1])\n"
		"mod = importlib.util.module_from_spec(spec)\n"
		"spec.loader.exec_module(mod)\n"
		"for line in sys.stdin:\n"
		"    try:\n"
		"        r = mod.Meta(line.strip()).check()\n"
		"        bad = list(r.errors) + list(r.leaks) + list(r.warnings)\n"
		"    except Exception as e:\n"
		"        bad = ['exception %r' % e]\n"
		"    print('; '.join(str(b) for b in bad[:3]).replace('\\n', ' ') or 'ok', flush=True)\n";
	char *argv[] = { "python3", "-c", (char *)script, (char *)thinfmt, NULL };
	posix_spawn_file_actions_t fa;
	int in[2], out[2];

	if (pipe2(in, O_CLOEXEC) || pipe2(out, O_CLOEXEC))
		sim_fail("no pipe for the external decoder");
	posix_spawn_file_actions_init(&fa);
	posix_spawn_file_actions_adddup2(&fa, in[0], 0);
	posix_spawn_file_actions_adddup2(&fa, out[1], 1);
	if (posix_spawnp(&oracle_pid, "python3", &fa, NULL, argv, environ))
		sim_fail("python3 does not start");
	posix_spawn_file_actions_destroy(&fa);
	close(in[0]);
	close(out[1]);
	oracle_in = fdopen(in[1], "w");
	oracle_out = fdopen(out[0], "r");
}

void tools_setup(void)
{
	const char *thinfmt = getenv("THINFMT");

	tools_dir = getenv("THIN_TOOLS");
	snprintf(image, sizeof(image), "%s/image.%d", opt.dir, getpid());
	snprintf(output, sizeof(output), "%s/output.%d", opt.dir, getpid());
	snprintf(errors, sizeof(errors), "%s/errors.%d", opt.dir, getpid());
	if (opt.oracle_percent) {
		if (!thinfmt)
			sim_fail("--oracle needs the path of the external decoder in THINFMT");
		start_oracle(thinfmt);
	}
	if (opt.tool_percent && !tools_dir)
		sim_fail("--tools needs the directory of the thin tools in THIN_TOOLS");
}

void tools_exit(void)
{
	if (oracle_in) {
		fclose(oracle_in);
		fclose(oracle_out);
		waitpid(oracle_pid, NULL, 0);
	}
	unlink(image);
	unlink(output);
	unlink(errors);
}

static int run(const char *tool, const char *arg)
{
	char path[512];
	char *argv[] = { path, image, NULL, NULL };
	posix_spawn_file_actions_t fa;
	int status;
	pid_t pid;

	snprintf(path, sizeof(path), "%s/%s", tools_dir, tool);
	if (arg) {
		argv[1] = (char *)arg;
		argv[2] = image;
	}
	posix_spawn_file_actions_init(&fa);
	posix_spawn_file_actions_addopen(&fa, 1, output, O_WRONLY | O_CREAT | O_TRUNC, 0644);
	posix_spawn_file_actions_addopen(&fa, 2, errors, O_WRONLY | O_CREAT | O_TRUNC, 0644);
	if (posix_spawn(&pid, path, &fa, NULL, argv, environ))
		sim_fail("%s does not start", path);
	posix_spawn_file_actions_destroy(&fa);
	if (waitpid(pid, &status, 0) != pid)
		sim_fail("%s is lost", path);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static void must_pass(const char *tool, const char *arg)
{
	char text[400];
	size_t n = 0;
	FILE *f;
	int r = run(tool, arg);

	if (!r)
		return;
	f = fopen(errors, "r");
	if (f) {
		n = fread(text, 1, sizeof(text) - 1, f);
		fclose(f);
	}
	text[n] = 0;
	sim_fail("%s exits with %d: %s (image kept as %s)", tool, r, text, image);
}

/* ---- thin_dump's XML ---- */

struct part {
	char name[64];
	struct mapping *m;
	size_t nr;
};

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

static void push(struct mapping **m, size_t *nr, const struct mapping *add, size_t n)
{
	if (!n)
		return;
	*m = realloc(*m, (*nr + n) * sizeof(**m));
	if (!*m)
		sim_fail("the machine is out of memory");
	memcpy(*m + *nr, add, n * sizeof(**m));
	*nr += n;
}

void tools_compare_xml(const char *path, const struct check_result *res)
{
	struct part *parts = NULL, *part = NULL, *into;
	size_t nr_parts = 0, dev = 0, at = 0, i, k;
	const struct check_dev *c = NULL;
	struct mapping one, *m = NULL;
	size_t nr = 0;
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
			nr = 0;
		} else if (strstr(line, "</device>")) {
			if (nr != c->nr)
				sim_fail("thin_dump: device %llu has %zu mappings, should have %zu", c->id, nr, c->nr);
			for (i = 0; i < nr; i++)
				if (m[i].v != c->maps[i].v || m[i].b != c->maps[i].b || m[i].t != c->maps[i].t)
					sim_fail("thin_dump: device %llu maps %llu to %llu, should map %llu to %llu",
						 c->id, m[i].v, m[i].b, c->maps[i].v, c->maps[i].b);
		} else if (strstr(line, "<ref ")) {
			if (sscanf(strstr(line, "name=\"") + 6, "%63[^\"]", name) != 1)
				sim_fail("thin_dump: %s", line);
			into = NULL;
			for (i = 0; i < nr_parts; i++)
				if (!strcmp(parts[i].name, name))
					into = &parts[i];
			if (!into)
				sim_fail("thin_dump: reference to an unknown part: %s", line);
			if (part) {
				/* parts may have moved since: a copy of the mappings is taken */
				push(&part->m, &part->nr, into->m, into->nr);
			} else {
				push(&m, &nr, into->m, into->nr);
			}
		} else if (strstr(line, "<single_mapping ") || strstr(line, "<range_mapping ")) {
			bool single = strstr(line, "<single_mapping ");

			len = single ? 1 : need(line, "length");
			one.v = need(line, single ? "origin_block" : "origin_begin");
			one.b = need(line, single ? "data_block" : "data_begin");
			one.t = need(line, "time");
			for (k = 0; k < len; k++, one.v++, one.b++) {
				if (part)
					push(&part->m, &part->nr, &one, 1);
				else
					push(&m, &nr, &one, 1);
			}
			at++;
		}
	}
	fclose(f);
	if (dev != res->live.nr)
		sim_fail("thin_dump: %zu devices, should be %zu", dev, res->live.nr);
	for (i = 0; i < nr_parts; i++)
		free(parts[i].m);
	free(parts);
	free(m);
}

void tools_judge(const struct disk *d, const struct check_result *res, bool with_oracle)
{
	char answer[2048];

	disk_save(d, image);
	if (tools_dir && opt.tool_percent) {
		stats.tool_commits++;
		must_pass("thin_check-0.9", NULL);
		must_pass("thin_check-1", "-q");
		stats.check09++;
		stats.check1x++;
		must_pass(stats.dumps % 2 ? "thin_dump-0.9" : "thin_dump-1", NULL);
		tools_compare_xml(output, res);
		stats.dumps++;
	}
	if (with_oracle && oracle_in) {
		fprintf(oracle_in, "%s\n", image);
		fflush(oracle_in);
		if (!fgets(answer, sizeof(answer), oracle_out))
			sim_fail("the external decoder died");
		if (strcmp(answer, "ok\n"))
			sim_fail("the external decoder: %s (image kept as %s)", answer, image);
		stats.oracle++;
	}
}
