/* posix.h - what Linux and macOS have in common, for linux.c and macos.c. */
#ifndef BSHM_PLATFORM_POSIX_H
#define BSHM_PLATFORM_POSIX_H

#include "../platform.h"

#include <sys/types.h>
#include <time.h>

#define NS_PER_S 1000000000

_Static_assert(sizeof(off_t) == 8, "lock bytes lie beyond 2^62: compile with -D_FILE_OFFSET_BITS=64");

/* As bshm_os_open, with open's own flags. */
int bshm_posix_open(const char *path, int flags, uint32_t mode, bshm_os_file *file);
/* Memory by writing zeros, where the file system has no other way. */
int bshm_posix_write_zeros(bshm_os_file file, uint64_t offset, uint64_t bytes);
/* A rename that fails when there is something: by two names for a moment, neither of which is ever missing. */
int bshm_posix_rename_by_link(const char *from, const char *to);
/* As mmap, at an address of the system's choice. */
void *bshm_posix_map_pages(bshm_os_file file, uint64_t offset, size_t bytes, int protection);
/* What each system has for a new mapping: kept from forked children if asked, and out of core dumps. */
int bshm_posix_advise_mapping(void *address, size_t bytes, bool not_in_child);
struct timespec bshm_posix_timespec(int64_t ns); /* of a duration; below zero: none */
int64_t bshm_posix_clock_ns(clockid_t clock);

#endif
