/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Where inline encryption counts: the number of a bio's first data unit moves on as the bio
 * is done, and has to be put back before the bio is submitted again.
 */
#ifndef COMPAT_CRYPT_H
#define COMPAT_CRYPT_H

#include <linux/blk-crypto.h>
#include <linux/string.h>

struct compat_dun {
#ifdef CONFIG_BLK_INLINE_ENCRYPTION
	u64 dun[BLK_CRYPTO_DUN_ARRAY_SIZE];
#endif
};

/* Both for a bio that has a key. */
static inline void compat_save_dun(const struct bio *bio, struct compat_dun *to)
{
#ifdef CONFIG_BLK_INLINE_ENCRYPTION
	memcpy(to->dun, bio->bi_crypt_context->bc_dun, sizeof(to->dun));
#endif
}

static inline void compat_restore_dun(struct bio *bio, const struct compat_dun *from)
{
#ifdef CONFIG_BLK_INLINE_ENCRYPTION
	memcpy(bio->bi_crypt_context->bc_dun, from->dun, sizeof(from->dun));
#endif
}

#endif
