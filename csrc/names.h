/* names.h - names: which are valid, how one is taken over, and how what dead writers left is removed.
 *
 * One rule holds for all of it: a process replaces or removes a name only while it holds the writer lock of the
 * object that the name leads to. So two writers that start together cannot both win, and a cleaner cannot remove a
 * living writer's segment (tests/core/model/names.pml).
 */
#ifndef BSHM_NAMES_H
#define BSHM_NAMES_H

#include "layout.h"

/* The object that has the name, open and with its writer lock held by this process; or none. */
typedef struct bshm_predecessor {
    bshm_brief_file held; /* BSHM_OS_NO_FILE: the name is free, or `own` */
    bshm_os_info info;
    bool own;      /* it is the caller's own segment, whose lock the caller already holds */
    bool same_abi; /* its identity is valid, so sequence and state have a meaning */
    bshm_identity identity;
    uint64_t sequence; /* the highest number it may have published; 0: its count cannot be continued */
} bshm_predecessor;

/* A path for a temporary next to `path`: "<directory>/.bshm-<16 hex digits>~", which is not a valid name. */
int bshm_temporary_path(const char *path, char *temporary, bshm_error *error);
bool bshm_is_temporary(const char *file_name);

/* `clean` and a competing creator hold a dead segment's lock only for moments, a living writer as long as it lives. */
#define BSHM_LOCK_TIMEOUT_NS (200 * BSHM_NS_PER_MS)

/* BSHM_OK: predecessor->held is open and locked, or `own` is set, or the name is free. BSHM_E_EXISTS: its lock was
 * held by another process for all of `timeout_ns`. */
int bshm_predecessor_take(const char *path, const char *name, const bshm_os_info *own, const bshm_trusted *trusted,
                          int64_t timeout_ns, bshm_predecessor *predecessor, bshm_error *error);
/* Returns memory of its slots to the system, except that of pinned ones and of the newest frame's (PUNCHING). */
void bshm_predecessor_reclaim(bshm_predecessor *predecessor);
/* Sets RETIRED, so that its readers look for the successor, then unlocks and closes it. */
void bshm_predecessor_retire(bshm_predecessor *predecessor);
void bshm_predecessor_drop(bshm_predecessor *predecessor);

/* Becomes the owner of each token without one, for a moment, and clears its pins, which killed readers left (R0). */
void bshm_clear_dead_tokens(bshm_os_file file, bshm_control *control, const bshm_identity *identity);

#endif
