/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef SIM_LINUX_SCHED_MM_H
#define SIM_LINUX_SCHED_MM_H
unsigned int memalloc_noio_save(void);
void memalloc_noio_restore(unsigned int flags);
#define memalloc_nofs_save memalloc_noio_save
#define memalloc_nofs_restore memalloc_noio_restore
#endif
