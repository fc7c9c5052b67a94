/* names.h - who has a name: validity of names, taking one over, giving one up, removing what the dead left.
 *
 * The rule behind all of it: whoever replaces or removes a name holds the writer lock of the object the name leads to.
 * So two writers that start at once cannot both win, and no cleaner removes a living one (tests/core/model/names.pml).
 */
#ifndef BSHM_NAMES_H
#define BSHM_NAMES_H

#include "layout.h"

/* The object a name leads to, with its writer lock held by us, or nothing. */
typedef struct bshm_predecessor {
    bshm_os_file file; /* BSHM_OS_NO_FILE: nobody has the name */
    bshm_os_info info;
    bool own;      /* it is the caller's current object, whose lock the caller holds already */
    bool same_abi; /* its layout is known: sequence and state mean something */
    bshm_identity identity;
    uint64_t sequence; /* the highest number it may have shown to anybody; 0: its count cannot be continued */
} bshm_predecessor;

/* Room for a temporary's path beside `path`; "<directory>/.bshm-<16 hex digits>~", which no name can be. */
int bshm_temporary_path(const char *path, char *temporary, bshm_error *error);
bool bshm_is_temporary(const char *file_name);

/* `clean` and a competing creator hold a dead object's lock for moments only; a living writer for good. */
#define BSHM_LOCK_TIMEOUT_NS (200 * BSHM_NS_PER_MS)

/* BSHM_OK with predecessor->file open and locked (or own), or BSHM_OS_NO_FILE if the name is free. BSHM_E_EXISTS: it lives,
 * and did so for `timeout_ns`. */
int bshm_predecessor_take(const char *path, const char *name, const bshm_os_info *own, const bshm_trusted *trusted,
                          int64_t timeout_ns, bshm_predecessor *predecessor, bshm_error *error);
/* Memory of its slots that nobody has pinned, other than the newest frame's, back to the system. */
void bshm_predecessor_reclaim(bshm_predecessor *predecessor);
/* RETIRED, so that its readers look for the successor; then its lock is let go. */
void bshm_predecessor_retire(bshm_predecessor *predecessor);
void bshm_predecessor_drop(bshm_predecessor *predecessor);

#endif
