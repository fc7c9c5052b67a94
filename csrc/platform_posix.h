/* platform_posix.h - what Linux and macOS have in common, for platform_linux.c and platform_macos.c. */
#ifndef BSHM_PLATFORM_POSIX_H
#define BSHM_PLATFORM_POSIX_H

#include "platform.h"

#include <sys/types.h>
#include <time.h>

#define NS_PER_S 1000000000

_Static_assert(sizeof(off_t) == 8, "lock bytes lie beyond 2^62: compile with -D_FILE_OFFSET_BITS=64");

/* As plat_open, with open's own flags. */
int posix_open(const char *path, int flags, uint32_t mode, plat_file *file);
/* Memory by writing zeros, where the file system has no other way. */
int posix_back_with_zeros(plat_file file, uint64_t offset, uint64_t bytes);
/* A rename that fails when there is something: by two names for a moment, neither of which is ever missing. */
int posix_rename_by_link(const char *from, const char *to);
/* As mmap, at an address of the system's choice. */
void *posix_map_pages(plat_file file, uint64_t offset, size_t bytes, int protection);
/* What each system has for a new mapping: kept from forked children if asked, and out of core dumps. */
int posix_settle_mapping(void *address, size_t bytes, bool not_in_child);
struct timespec posix_timespec(int64_t ns); /* of a duration; below zero: none */
int64_t posix_clock_ns(clockid_t clock);

#endif
