/* posix.h - what linux.c and macos.c share. */
#ifndef BSHM_PLATFORM_POSIX_H
#define BSHM_PLATFORM_POSIX_H

#include "../platform.h"

#include <sys/types.h>
#include <time.h>

#define NS_PER_S 1000000000

_Static_assert(sizeof(off_t) == 8, "lock bytes lie beyond 2^62: compile with -D_FILE_OFFSET_BITS=64");

/* bshm_os_open with flags of open(). */
int bshm_posix_open(const char *path, int flags, uint32_t mode, bshm_os_file *file);
/* False: the file system has less than that free. An allocation that cannot succeed would take every page there is
 * before it fails, and another process that touches its own memory then would get SIGBUS: do not begin it. */
bool bshm_posix_has_room(bshm_os_file file, uint64_t bytes);
/* Allocates memory by writing zeros, for file systems without another way. */
int bshm_posix_write_zeros(bshm_os_file file, uint64_t offset, uint64_t bytes);
/* A rename that fails if the name exists. The file has two names for a moment, and always at least one. */
int bshm_posix_rename_by_link(const char *from, const char *to);
/* mmap at an address that suits the system. */
void *bshm_posix_map_pages(bshm_os_file file, uint64_t offset, size_t bytes, int protection);
/* System-specific settings of a new mapping: not in forked children if asked for, not in core dumps. */
int bshm_posix_advise_mapping(void *address, size_t bytes, bool not_in_child);
struct timespec bshm_posix_timespec(int64_t ns); /* of a duration, 0 or more */
int64_t bshm_posix_clock_ns(clockid_t clock);

#endif
