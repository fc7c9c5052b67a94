/* attachment.h - one segment as a reader holds it: files, mappings, lease tokens. Outlives its reader as long as frames do. */
#ifndef BSHM_ATTACHMENT_H
#define BSHM_ATTACHMENT_H

#include "layout.h"

/* One token of this reader's. */
typedef struct bshm_lease {
    bool owned;   /* else the place is empty */
    bool passing; /* taken for the length of one copy, then given up */
    uint32_t token;
    uint32_t slot;
    uint32_t frames; /* that share the pin; 0: the token is free */
    uint64_t seq;
} bshm_lease;

struct bshm_attachment {
    uint32_t references;
    uint32_t process_epoch;
    bshm_os_mutex mutex;    /* of leases and slots; nothing of Python runs under it */
    bshm_os_file lock_file; /* (1): token and presence locks, and the control region; BSHM_OS_NO_FILE for an observer */
    bshm_os_file data_file; /* (2): read-only, the rest */
    bshm_os_info info;
    bshm_identity identity;
    const bshm_header *header;
    bshm_control *control;       /* null for an observer */
    void *slots[BSHM_MAX_SLOTS]; /* mapped at first use */
    bshm_reader_entry *entry;    /* null: no place in the table */
    uint32_t max_leases;         /* tokens that are kept */
    bshm_lease leases[BSHM_MAX_SLOTS];
    int64_t next_token_search_ns;
    char name[BSHM_OS_PATH_BYTES];
};

/* One try. */
int bshm_attachment_open(bshm_attachment **attachment, const char *path, const char *name, uint32_t max_leases,
                         const bshm_trusted *trusted, bshm_error *error);
void bshm_attachment_unreference(bshm_attachment *attachment);
bool bshm_attachment_is_inherited(const bshm_attachment *attachment);

/* R0, under the mutex: a token that pins nothing. One that will be kept if there may be another; else, or for a copy, a
 * passing one, so that copies are as fast and as safe as leases without taking leases from others for long. Null: none. */
bshm_lease *bshm_token_take(bshm_attachment *attachment, bool to_copy);
void bshm_token_release(bshm_attachment *attachment, bshm_lease *lease);

/* BSHM_FOUND: *frame is the newest frame and pinned (R0 to R4); `to_copy` says that the pin is only for the length of a copy:
 * because it was asked for, or because max_leases frames are held. BSHM_NOTHING: nothing above `seen`. BSHM_NO_PIN: no token to be
 * had, or a slot that was always being written. Negative: corrupt. `retries` counts R3s. */
int bshm_attachment_pin(bshm_attachment *attachment, uint64_t seen, bool to_copy, bshm_frame *frame, uint64_t *retries,
                        bshm_error *error);
/* The same without a pin. */
int bshm_attachment_find(bshm_attachment *attachment, uint64_t seen, bshm_frame *frame, uint64_t *retries,
                         bshm_error *error);

#endif
