/* reader.h - what following a name and taking frames from it share. */
#ifndef BSHM_READER_H
#define BSHM_READER_H

#include "attachment.h"
#include "protocol.h"

struct bshm_reader {
    bshm_os_fork_member fork_member;
    bshm_os_mutex mutex;
    bshm_attachment *attachment; /* null: detached, or closed */
    bshm_attachment *inherited;  /* in a forked child: the parent's attachment, until it is dropped here; or null */
    uint64_t seen;               /* in the segment `generation` */
    uint8_t generation[16];      /* of the last attachment; a forked child may attach to it again */
    uint64_t last;               /* number of the last frame delivered, of any segment; 0: none yet */
    uint64_t last_series;        /* the series that `last` belongs to */
    bool in_turn;                /* that frame was read by bshm_reader_acquire_next */
    uint64_t undelivered;        /* frames that were given back, to count as skipped */
    int64_t next_check_ns;
    int64_t next_attach_ns;
    bool closed;
    bool pin_failed;     /* the last attempt failed although there is a frame: waiting for `latest` would not help */
    uint64_t unreadable; /* this `latest` did not change, and yet its frame cannot be read: it is corrupt. 0: none */
    bshm_reader_options options;
    bshm_trusted trusted;
    bshm_reader_counters counters;
    char name[BSHM_OS_PATH_BYTES];
    char path[BSHM_OS_PATH_BYTES];
};

/* Besides enum bshm_acquire_flags: a reader that only looks frames up does not finish a segment before it moves on. */
#define BSHM_ACQUIRE_LOOK_UP 0x80000000u

static inline void bshm_reader_enter(bshm_reader *reader)
{
    bshm_os_mutex_lock(&reader->mutex);
}

static inline void bshm_reader_leave(bshm_reader *reader)
{
    bshm_os_mutex_unlock(&reader->mutex);
}

static inline bool bshm_attachment_is_newer(const bshm_attachment *attachment, uint64_t seen)
{
    return BSHM_LATEST_SEQUENCE(bshm_step_load_latest(attachment->header)) > seen;
}

/* The functions below are called under the mutex. */

int bshm_reader_check_open(const bshm_reader *reader, bshm_error *error);
/* For a reader that is detached, or closed. BSHM_ATTACHED, or BSHM_NOTHING. */
int bshm_reader_attach_again(bshm_reader *reader, bshm_error *error);
/* Nothing is new here: has the segment been replaced? BSHM_AGAIN: there may be a new frame now. */
int bshm_reader_check_for_successor(bshm_reader *reader, uint32_t flags, bshm_error *error);

#endif
