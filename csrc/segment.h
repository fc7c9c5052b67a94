/* segment.h - one segment as its writer holds it: created, published under the name, grown, retired, closed. */
#ifndef BSHM_SEGMENT_H
#define BSHM_SEGMENT_H

#include "names.h"

/* Loans keep the pixel mappings alive. Files, locks, header and control region belong to the writer alone. */
struct bshm_segment {
    bshm_os_fork_member fork_member;
    uint32_t references;
    uint32_t backed; /* slots 0 to backed - 1 have memory */
    bshm_identity identity;
    void *slots[BSHM_MAX_SLOTS];
    bshm_os_file lock_file; /* the lock; maps header and control region, which a forked child does not inherit */
    bshm_os_file data_file; /* no locks; maps the slots, where a forked child has its own zeros */
    bshm_os_info info;
    bshm_header *header;
    bshm_control *control;
};

/* Creates a segment under `name`, LIVE, counting on from `sequence` and from what had the name before; raises
 * *sequence accordingly. `own`: the writer's segment to replace, or null; the caller closes it afterwards. */
int bshm_segment_create(bshm_segment **segment, const char *path, const char *name, const bshm_writer_options *options,
                        const bshm_trusted *trusted, const bshm_segment *own, uint64_t *sequence, bshm_error *error);
/* Gives one more slot memory. BSHM_E_FULL names the bytes. */
int bshm_segment_grow(bshm_segment *segment, const char *path, bshm_error *error);
/* True while the name leads to this segment. */
bool bshm_segment_has_name(const bshm_segment *segment, const char *path);
/* Sets the last state, wakes, and, for CLOSED, unlinks the name if it still leads here. Unlocks and closes the files;
 * the slots stay mapped while there are references. */
void bshm_segment_end(bshm_segment *segment, uint32_t state, const char *path);
void bshm_segment_unreference(bshm_segment *segment);

#endif
