/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef SIM_HOSTILE_H
#define SIM_HOSTILE_H

#include <stdio.h>
#include "disk.h"

struct check_result;

/* Mutation number @nr of the image that @seed makes, or all of them. */
void hostile(u64 seed);
void hostile_one(u64 seed, u64 nr);
/* All mutations of the image in @path, or one. */
void hostile_file(const char *path, u64 nr);
void hostile_print(void);
/* Inputs of the fuzzers: images of several seeds, and these. */
void hostile_corpus(const char *dir, char **files, int nr);

extern char hostile_now[200];
void hostile_replay(FILE *f);

/* Open an image that may be anything and do all there is to do with it. */
bool exercise(struct disk *d, u64 seed, const u32 *ids, unsigned int nr_ids);
/* A device of a hostile image that nothing has touched reads as before. */
void exercise_untouched(struct disk *d, const struct check_result *res, const bool *untouched);
/* The checksum that a block of this kind has. */
void stamp_page(u8 *page, int kind);
bool is_node(int kind);

#endif
