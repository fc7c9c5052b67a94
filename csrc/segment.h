/* segment.h - one segment as its writer holds it: created, published under the name, grown, retired, closed. */
#ifndef BSHM_SEGMENT_H
#define BSHM_SEGMENT_H

#include "names.h"

/* The part that loans keep alive is the pixel mappings; files, locks, header and control are the writer's alone. */
struct bshm_segment {
    uint32_t references;
    uint32_t backed; /* slots 0 to backed-1 have memory */
    bshm_identity identity;
    uint8_t *slots[BSHM_MAX_SLOTS];
    bshm_os_file lock_file; /* (1): the lock; header and control are mapped through it, not in children */
    bshm_os_file data_file; /* (2): the slots, which a child may inherit */
    bshm_os_info info;
    bshm_header *header;
    bshm_control *control;
};

/* A new object under `name`, LIVE, continuing after `sequence` and after whatever had the name before; *sequence is
 * raised accordingly. `own`: the generation it replaces, or null; the caller still has to close that one. */
int bshm_segment_create(bshm_segment **segment, const char *path, const char *name, const bshm_writer_options *options,
                        const bshm_trusted *trusted, const bshm_segment *own, uint64_t *sequence, bshm_error *error);
/* Memory for one slot more. BSHM_E_FULL names the bytes. */
int bshm_segment_grow(bshm_segment *segment, const char *path, bshm_error *error);
/* True as long as the name leads to this object. */
bool bshm_segment_has_name(const bshm_segment *segment, const char *path);
/* The last state, wake, and, for CLOSED, unlink if the name still leads here. Lets go of lock and files; the slots stay
 * mapped for as long as there are references. */
void bshm_segment_end(bshm_segment *segment, uint32_t state, const char *path);
/* In a forked child: nothing but the mappings that were inherited. */
void bshm_segment_abandon(bshm_segment *segment);
void bshm_segment_unreference(bshm_segment *segment);

#endif
