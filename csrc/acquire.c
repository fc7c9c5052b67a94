/* acquire.c - takes frames: the newest, or one of the window. */
#include "reader.h"

/* Frames published between this reader's last one and frame n. */
static uint64_t count_skipped(const bshm_reader *reader, uint64_t n)
{
    if (reader->last == 0)
        return 0; /* its first frame: none was missed */
    if (reader->last_series != reader->attachment->identity.series)
        return n - 1;                                   /* after a clean close numbers begin at 1 again */
    return n > reader->last ? n - reader->last - 1 : 0; /* a corrupt segment may have shown a number that never was */
}

static void count_frame(bshm_reader *reader, const bshm_frame *frame)
{
    bshm_reader_entry *entry = reader->attachment->entry;
    reader->counters.frames++;
    reader->counters.copies += frame->to_copy;
    if (entry) {
        bshm_store_relaxed(&entry->frames, reader->counters.frames);
        bshm_store_relaxed(&entry->skipped, reader->counters.skipped);
        bshm_store_relaxed(&entry->copies, reader->counters.copies);
        bshm_store_relaxed(&entry->last_sequence, reader->last);
    }
}

static void deliver(bshm_reader *reader, bshm_frame *frame)
{
    frame->is_new = frame->info.sequence > reader->seen;
    if (frame->is_new) {
        frame->skipped = count_skipped(reader, frame->info.sequence) + reader->undelivered;
        reader->undelivered = 0;
        reader->counters.skipped += frame->skipped;
        reader->seen = frame->info.sequence;
        reader->last = frame->info.sequence;
        reader->last_series = reader->attachment->identity.series;
    }
    reader->in_turn = false;
    count_frame(reader, frame);
}

/* `latest`: its value before the attempt. The slot of the newest frame is never claimed, and what the writer did to
 * it comes before W10: if `latest` is the same after all attempts, they did not fail because the writer was faster. */
static void note_failure(bshm_reader *reader, uint64_t latest, int rc)
{
    reader->pin_failed = rc == BSHM_NO_PIN || rc == BSHM_E_FORMAT;
    if (reader->pin_failed && bshm_step_load_latest(reader->attachment->header) == latest)
        reader->unreadable = latest;
}

static int take_newest(bshm_reader *reader, uint32_t flags, bshm_frame *frame, bshm_error *error)
{
    uint64_t seen = flags & BSHM_ACQUIRE_SEEN ? 0 : reader->seen;
    uint64_t latest = bshm_step_load_latest(reader->attachment->header);
    if (BSHM_LATEST_SEQUENCE(latest) <= seen)
        return BSHM_NOTHING; /* a plain load: a reader without news pins nothing */
    frame->skipped = 0;
    int rc = bshm_attachment_pin(reader->attachment, seen, flags & BSHM_ACQUIRE_COPY, frame, &reader->counters.retries,
                                 error);
    if (rc == BSHM_NO_PIN)
        rc = bshm_attachment_find(reader->attachment, seen, frame, &reader->counters.retries, error);
    if (rc == BSHM_FOUND)
        deliver(reader, frame);
    note_failure(reader, latest, rc);
    return rc == BSHM_NO_PIN ? BSHM_NOTHING : rc;
}

/* After an attempt that returned *rc. True: try again; otherwise return *rc. */
static bool can_try_again(bshm_reader *reader, uint32_t flags, int *rc, bshm_error *error)
{
    bshm_error ignored;
    if (*rc == BSHM_E_FORMAT) /* a corrupt segment does not keep a reader from its successor */
        return bshm_reader_check_for_successor(reader, flags, &ignored) == BSHM_AGAIN;
    if (*rc != BSHM_NOTHING)
        return false;
    *rc = bshm_reader_check_for_successor(reader, flags, error);
    return *rc == BSHM_AGAIN;
}

static int acquire(bshm_reader *reader, uint32_t flags, bshm_frame *frame, bshm_error *error)
{
    int rc;
    if (!reader->attachment && (rc = bshm_reader_attach_again(reader, error)) != BSHM_ATTACHED)
        return rc;
    rc = BSHM_OK;
    /* First: otherwise the newest frame of an ended segment would hide the successor's. The state may still be LIVE:
     * a writer that was killed never stored another. */
    if (flags & BSHM_ACQUIRE_SEEN)
        rc = bshm_reader_check_for_successor(reader, flags, error);
    if (rc >= 0)
        rc = take_newest(reader, flags, frame, error);
    return can_try_again(reader, flags, &rc, error) ? take_newest(reader, flags, frame, error) : rc;
}

int bshm_reader_acquire(bshm_reader *reader, uint32_t flags, bshm_frame *frame, bshm_error *error)
{
    bshm_reader_enter(reader);
    int rc = acquire(reader, flags, frame, error);
    bshm_reader_leave(reader);
    return rc;
}

/* ---------------------------------------------------------------- frames of the window */

static int take_number(bshm_reader *reader, uint64_t number, uint32_t flags, bshm_frame *frame, bshm_error *error)
{
    frame->skipped = 0;
    frame->is_new = 0;
    int rc = bshm_attachment_pin_number(reader->attachment, number, flags & BSHM_ACQUIRE_COPY, frame,
                                        &reader->counters.retries, error);
    if (rc == BSHM_NO_PIN)
        rc = bshm_attachment_find_number(reader->attachment, number, frame, &reader->counters.retries, error);
    return rc;
}

/* If a number of the window is not there, it has been overwritten or punched out, and does not come back. */
static int take_next(bshm_reader *reader, uint32_t flags, bshm_frame *frame, bshm_error *error)
{
    uint64_t next = reader->seen + 1;
    uint64_t latest = bshm_step_load_latest(reader->attachment->header);
    if (reader->last == 0 || reader->attachment->identity.history == 0)
        return take_newest(reader, flags, frame, error);
    reader->pin_failed = false;
    for (uint32_t attempt = 0; attempt < BSHM_MAX_SLOTS; attempt++) {
        bshm_span span = bshm_attachment_span(reader->attachment);
        next = next > span.first ? next : span.first;
        if (next > span.last) {
            if (span.last > reader->seen) /* all of them are gone, although `latest` is newer */
                note_failure(reader, latest, BSHM_NO_PIN);
            return BSHM_NOTHING;
        }
        int rc = take_number(reader, next, flags, frame, error);
        if (rc == BSHM_FOUND)
            deliver(reader, frame);
        else if (rc < 0)
            note_failure(reader, latest, rc);
        if (rc != BSHM_NOTHING)
            return rc;
        next++;
    }
    reader->pin_failed = true; /* the writer was faster each time: wait a moment, but not for its next frame */
    return BSHM_NOTHING;
}

static int acquire_next(bshm_reader *reader, uint32_t flags, bshm_frame *frame, bshm_error *error)
{
    int rc = reader->attachment ? BSHM_ATTACHED : bshm_reader_attach_again(reader, error);
    if (rc != BSHM_ATTACHED)
        return rc;
    rc = take_next(reader, flags, frame, error);
    if (can_try_again(reader, flags, &rc, error))
        rc = take_next(reader, flags, frame, error);
    reader->in_turn = true;
    return rc;
}

int bshm_reader_acquire_next(bshm_reader *reader, uint32_t flags, bshm_frame *frame, bshm_error *error)
{
    bshm_reader_enter(reader);
    int rc = acquire_next(reader, flags & ~(uint32_t)BSHM_ACQUIRE_SEEN, frame, error);
    bshm_reader_leave(reader);
    return rc;
}

/* Looks up a number, or, if that is 0, the frame captured nearest to a time. */
static int look_up_once(bshm_reader *reader, uint64_t number, int64_t capture_ns, uint32_t flags, bshm_frame *frame,
                        bshm_error *error)
{
    int rc = BSHM_NOTHING;
    for (int attempt = 0; rc == BSHM_NOTHING && attempt < BSHM_READ_ATTEMPTS; attempt++) {
        uint64_t found = number ? number : bshm_attachment_nearest(reader->attachment, capture_ns);
        if (found == 0)
            return BSHM_NOTHING;
        rc = take_number(reader, found, flags, frame, error);
        if (number)
            break;
    }
    if (rc == BSHM_FOUND)
        count_frame(reader, frame);
    return rc;
}

static int look_up(bshm_reader *reader, uint64_t number, int64_t capture_ns, uint32_t flags, bshm_frame *frame,
                   bshm_error *error)
{
    int rc = reader->attachment ? BSHM_ATTACHED : bshm_reader_attach_again(reader, error);
    if (rc != BSHM_ATTACHED)
        return rc;
    /* First: otherwise frames kept by an ended segment would hide its successor's. A reader in turn moves on itself,
     * and finds here what came before its last frame. */
    rc = BSHM_NOTHING;
    if (!reader->in_turn || (number == 0 && !bshm_attachment_reaches(reader->attachment, capture_ns)))
        rc = bshm_reader_check_for_successor(reader, flags | BSHM_ACQUIRE_LOOK_UP, error);
    if (rc >= 0)
        rc = look_up_once(reader, number, capture_ns, flags, frame, error);
    if (rc != BSHM_NOTHING)
        return rc;
    rc = bshm_reader_check_for_successor(reader, flags | BSHM_ACQUIRE_LOOK_UP, error);
    return rc == BSHM_AGAIN ? look_up_once(reader, number, capture_ns, flags, frame, error) : rc;
}

int bshm_reader_acquire_number(bshm_reader *reader, uint64_t number, uint32_t flags, bshm_frame *frame,
                               bshm_error *error)
{
    bshm_reader_enter(reader);
    int rc = number ? look_up(reader, number, 0, flags, frame, error) : bshm_reader_check_open(reader, error);
    bshm_reader_leave(reader);
    return rc;
}

int bshm_reader_acquire_nearest(bshm_reader *reader, int64_t capture_ns, uint32_t flags, bshm_frame *frame,
                                bshm_error *error)
{
    bshm_reader_enter(reader);
    int rc = look_up(reader, 0, capture_ns, flags, frame, error);
    bshm_reader_leave(reader);
    return rc;
}

void bshm_reader_give_back(bshm_reader *reader, const bshm_frame *frame)
{
    bshm_reader_enter(reader);
    reader->counters.frames--;
    reader->counters.copies -= frame->to_copy;
    reader->counters.retries++;
    reader->counters.skipped -= frame->skipped;
    reader->undelivered += frame->is_new ? frame->skipped + 1 : 0;
    bshm_reader_leave(reader);
}
