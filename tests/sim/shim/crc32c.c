// SPDX-License-Identifier: GPL-2.0-only
/* CRC-32C, raw register.  Its own file: built without sanitizers, every check needs it. */
#include <linux/crc32c.h>
#include <string.h>

#ifdef __x86_64__
__attribute__((target("sse4.2")))
static u32 crc_hw(u32 crc, const u8 *p, size_t len)
{
	unsigned long long c = crc, w;

	for (; len >= 8; len -= 8, p += 8) {
		memcpy(&w, p, 8);
		c = __builtin_ia32_crc32di(c, w);
	}
	crc = c;
	while (len--)
		crc = __builtin_ia32_crc32qi(crc, *p++);
	return crc;
}
#endif

static u32 crc_soft(u32 crc, const u8 *p, size_t len)
{
	static u32 table[256];
	u32 c;
	int i, k;

	if (!table[1])
		for (i = 0; i < 256; i++) {
			c = i;
			for (k = 0; k < 8; k++)
				c = (c & 1) ? (c >> 1) ^ 0x82F63B78 : c >> 1;
			table[i] = c;
		}
	while (len--)
		crc = (crc >> 8) ^ table[(u8)crc ^ *p++];
	return crc;
}

u32 crc32c(u32 crc, const void *data, size_t len)
{
#ifdef __x86_64__
	if (__builtin_cpu_supports("sse4.2"))
		return crc_hw(crc, data, len);
#endif
	return crc_soft(crc, data, len);
}
