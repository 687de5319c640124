/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef SIM_FUZZ_H
#define SIM_FUZZ_H

#include "disk.h"

/* An input of the fuzzers that is this image. */
void fuzz_save(const struct disk *d, const char *path);

#endif
