/* attachment.h - one segment as a reader holds it: files, mappings, lease tokens. Frames keep it alive after its reader
 * is gone. */
#ifndef BSHM_ATTACHMENT_H
#define BSHM_ATTACHMENT_H

#include "layout.h"

/* One token of this reader. */
typedef struct bshm_lease {
    bool owned;     /* false: this entry of the array is free */
    bool transient; /* taken for one copy, then released */
    uint32_t token;
    uint32_t slot;
    uint32_t frames; /* how many share the pin; 0: the token pins nothing */
    uint32_t views;  /* those of them that are not `to_copy` */
    uint64_t seq;
} bshm_lease;

struct bshm_attachment {
    bshm_os_fork_member fork_member;
    uint32_t references;         /* of the reader, its waiting threads and its frames: they keep files and memory */
    uint32_t address_references; /* of bshm_addresses_hold, and one for all `references` together */
    bool inherited;              /* by this forked child, which has only the memory of `views_in_child` left */
    uint32_t views_in_child;
    bshm_os_mutex mutex;    /* guards leases and slots; no Python code runs under it */
    bshm_os_file lock_file; /* token and presence locks; maps the control region. BSHM_OS_NO_FILE: an observer */
    bshm_os_file data_file; /* read-only, no locks except an observer's presence; maps the rest */
    bshm_os_info info;
    bshm_identity identity;
    void *header_mapping; /* the same as `header`, as bshm_os_map wants it */
    const bshm_header *header;
    bshm_control *control;       /* null for an observer */
    void *slots[BSHM_MAX_SLOTS]; /* mapped ahead, or at first use */
    uint32_t ahead;              /* the slots below this one were mapped ahead, or left for their first use */
    bshm_reader_entry *entry;    /* null: no free entry was left in the table */
    uint32_t max_leases;         /* how many tokens are kept */
    bshm_lease leases[BSHM_MAX_SLOTS];
    int64_t next_token_search_ns;
    char name[BSHM_OS_PATH_BYTES];
};

/* One attempt. */
int bshm_attachment_open(bshm_attachment **attachment, const char *path, const char *name, uint32_t max_leases,
                         const bshm_trusted *trusted, bshm_error *error);
void bshm_attachment_unreference(bshm_attachment *attachment);
/* In a forked child: releases a view that was inherited, and with the last one the memory. */
void bshm_attachment_drop_inherited_view(bshm_attachment *attachment);

/* R0, under the mutex: a token that pins nothing. It is kept if fewer than max_leases are; otherwise, and for a copy,
 * it is transient: the copy is then as fast and as safe as a lease, without keeping a token from other readers for
 * long. Null: none is free. */
bshm_lease *bshm_token_take(bshm_attachment *attachment, bool to_copy);
void bshm_token_release(bshm_attachment *attachment, bshm_lease *lease);

/* Maps one more slot, if one with memory has not been looked at yet: a slot's first frame then costs this reader no
 * more than a later one. False: there was none. */
bool bshm_attachment_map_ahead(bshm_attachment *attachment);
/* Where a slot is mapped, or null. */
const void *bshm_attachment_slot(bshm_attachment *attachment, uint32_t slot);

/* BSHM_FOUND: *frame is the newest frame, pinned (R0 to R4). frame->to_copy is set if the pin is for a copy only: a
 * copy was asked for, or max_leases frames are held. BSHM_NOTHING: no frame above `seen`. BSHM_NO_PIN: no token was
 * free, or the slot was being written at every attempt. Negative: corrupt. `retries` counts R3s. */
int bshm_attachment_pin(bshm_attachment *attachment, uint64_t seen, bool to_copy, bshm_frame *frame, uint64_t *retries,
                        bshm_error *error);
/* The same without a pin. */
int bshm_attachment_find(bshm_attachment *attachment, uint64_t seen, bshm_frame *frame, uint64_t *retries,
                         bshm_error *error);

/* The window of the newest frame, as far as frames were published in the segment; or an empty one (last 0). */
typedef struct bshm_span {
    uint64_t first, last;
} bshm_span;
bshm_span bshm_attachment_span(const bshm_attachment *attachment);

/* As the two above, for frame `number` of the window. BSHM_NOTHING: it is outside, or gone. */
int bshm_attachment_pin_number(bshm_attachment *attachment, uint64_t number, bool to_copy, bshm_frame *frame,
                               uint64_t *retries, bshm_error *error);
int bshm_attachment_find_number(bshm_attachment *attachment, uint64_t number, bshm_frame *frame, uint64_t *retries,
                                bshm_error *error);

/* The number of the frame in the window that was captured nearest to `capture_ns`, the earlier of two. 0: none, or
 * all were captured later. */
uint64_t bshm_attachment_nearest(const bshm_attachment *attachment, int64_t capture_ns);
/* Whether the newest frame was captured at `capture_ns` or later. */
bool bshm_attachment_reaches(const bshm_attachment *attachment, int64_t capture_ns);

#endif
