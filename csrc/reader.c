/* reader.c - follows one name through its segments: acquire, wait, status. */
#include "attachment.h"
#include "protocol.h"

#include <stdlib.h>
#include <string.h>

#define CHECK_INTERVAL_NS (100 * BSHM_NS_PER_MS) /* how often the name is checked while the state is LIVE */
#define ATTACH_RETRY_NS   (5 * BSHM_NS_PER_MS)   /* how often a segment that is not there is looked for */
#define LOOK_UP           0x80000000u /* beside enum bshm_acquire_flags: who only looks frames up has none to finish */
#define WAIT_SLICE_NS     (100 * BSHM_NS_PER_MS) /* then the caller can handle signals */

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
    uint64_t undelivered;        /* frames that were given back, to be counted as skipped */
    int64_t next_check_ns;
    int64_t next_attach_ns;
    bool closed;
    bool pin_failed; /* the last attempt failed although there is a frame: waiting for `latest` would not help */
    bshm_reader_options options;
    bshm_trusted trusted;
    bshm_reader_counters counters;
    char name[BSHM_OS_PATH_BYTES];
    char path[BSHM_OS_PATH_BYTES];
};

/* A forked child starts again: its parent's attachment is not used, and a thread that does not exist here may hold
 * the mutex. */
static bool start_again_in_child(bshm_os_fork_member *member)
{
    bshm_reader *reader = (bshm_reader *)member;
    bshm_os_mutex_init(&reader->mutex);
    if (reader->attachment)
        reader->inherited = reader->attachment;
    reader->attachment = NULL;
    reader->next_attach_ns = 0;
    return true;
}

int bshm_reader_create(bshm_reader **created, const char *name, const bshm_reader_options *options, bshm_error *error)
{
    bshm_reader *reader = calloc(1, sizeof *reader);
    if (!reader)
        return bshm_fail(error, BSHM_E_MEMORY, "out of memory: cannot create a reader");
    int rc = bshm_object_path(name, reader->path, sizeof reader->path, error);
    if (rc == BSHM_OK)
        rc = bshm_trusted_copy(&reader->trusted, &options->trusted, error);
    if (rc < 0) {
        free(reader);
        return rc;
    }
    memcpy(reader->name, name, strlen(name) + 1); /* fits: bshm_object_path checked */
    reader->options = *options;
    bshm_os_mutex_init(&reader->mutex);
    bshm_os_join_fork_list(&reader->fork_member, start_again_in_child);
    *created = reader;
    return BSHM_OK;
}

/* ---------------------------------------------------------------- attaching and following, under the mutex */

static void enter(bshm_reader *reader)
{
    bshm_os_mutex_lock(&reader->mutex);
}

static void leave(bshm_reader *reader)
{
    bshm_os_mutex_unlock(&reader->mutex);
}

static int check_open(const bshm_reader *reader, bshm_error *error)
{
    return reader->closed ? bshm_fail(error, BSHM_E_CLOSED, "the reader of '%s' is closed", reader->name) : BSHM_OK;
}

static void use_attachment(bshm_reader *reader, bshm_attachment *attachment)
{
    bshm_attachment *former = reader->attachment;
    reader->attachment = attachment;
    bshm_attachment_unreference(former);
    reader->next_check_ns = bshm_os_coarse_now_ns() + CHECK_INTERVAL_NS;
    reader->pin_failed = false;
    if (memcmp(reader->generation, attachment->identity.generation, sizeof reader->generation) != 0)
        reader->seen = 0;
    memcpy(reader->generation, attachment->identity.generation, sizeof reader->generation);
}

static void give_up_inherited(bshm_reader *reader)
{
    bshm_attachment_unreference(reader->inherited);
    reader->inherited = NULL;
}

static int attach(bshm_reader *reader, bshm_error *error)
{
    bshm_attachment *attachment;
    give_up_inherited(reader);
    int rc = bshm_attachment_open(&attachment, reader->path, reader->name, reader->options.max_leases, &reader->trusted,
                                  error);
    if (rc == BSHM_OK)
        use_attachment(reader, attachment);
    return rc;
}

static uint32_t segment_state(const bshm_attachment *attachment)
{
    return bshm_load_acquire32(&attachment->header->publication.state);
}

static bool writer_is_alive(const bshm_attachment *attachment)
{
    return bshm_os_is_locked(attachment->data_file, BSHM_WRITER_BYTE) == 1;
}

static bool has_name(const bshm_reader *reader)
{
    bshm_os_info now;
    return bshm_os_info_at(reader->path, &now) == 0 && bshm_os_same_object(&now, &reader->attachment->info);
}

static bool is_newer(const bshm_attachment *attachment, uint64_t seen)
{
    return BSHM_LATEST_SEQUENCE(bshm_step_load_latest(attachment->header)) > seen;
}

static bool has_new_frame(const bshm_reader *reader)
{
    return is_newer(reader->attachment, reader->seen);
}

/* BSHM_ATTACHED, or BSHM_NOTHING: no segment. */
static int attach_if_there(bshm_reader *reader, bshm_error *error)
{
    int rc = attach(reader, error);
    return rc == BSHM_OK ? BSHM_ATTACHED : rc == BSHM_E_NOT_FOUND ? BSHM_NOTHING : rc;
}

/* Nothing is new here: has the segment been replaced? BSHM_AGAIN: there may be a new frame now. */
static int check_for_successor(bshm_reader *reader, uint32_t flags, bshm_error *error)
{
    int64_t now = bshm_os_coarse_now_ns();
    uint32_t state = segment_state(reader->attachment);
    if (state == BSHM_STATE_CLOSED && (flags & BSHM_ACQUIRE_STAY))
        return has_new_frame(reader) ? BSHM_AGAIN : BSHM_NOTHING;
    if (state != BSHM_STATE_LIVE ? now < reader->next_attach_ns : now < reader->next_check_ns)
        return BSHM_NOTHING;
    reader->next_check_ns = now + CHECK_INTERVAL_NS;
    reader->next_attach_ns = now + ATTACH_RETRY_NS;
    if (has_name(reader))
        return BSHM_NOTHING;
    /* The last frame may have come after the first load of `latest`: it is read before the successor's frames. */
    if (has_new_frame(reader) && (reader->in_turn || !(flags & LOOK_UP)))
        return BSHM_AGAIN;
    int rc = attach_if_there(reader, error);
    return rc == BSHM_ATTACHED ? BSHM_AGAIN : rc;
}

int bshm_reader_attach(bshm_reader *reader, bshm_error *error)
{
    enter(reader);
    int rc = check_open(reader, error);
    if (rc == BSHM_OK && !(reader->attachment && has_name(reader)))
        rc = attach(reader, error);
    reader->pin_failed = rc < 0;
    leave(reader);
    return rc;
}

/* ---------------------------------------------------------------- acquiring */

/* Frames published between this reader's last one and frame n. */
static uint64_t count_skipped(const bshm_reader *reader, uint64_t n)
{
    if (reader->last == 0)
        return 0; /* its first frame: none was missed */
    if (reader->last_series != reader->attachment->identity.series)
        return n - 1; /* after a clean close numbers begin at 1 again */
    return n - reader->last - 1;
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

static int take_newest(bshm_reader *reader, uint32_t flags, bshm_frame *frame, bshm_error *error)
{
    uint64_t seen = flags & BSHM_ACQUIRE_SEEN ? 0 : reader->seen;
    if (!is_newer(reader->attachment, seen))
        return BSHM_NOTHING; /* a plain load: a reader without news pins nothing */
    frame->skipped = 0;
    int rc = bshm_attachment_pin(reader->attachment, seen, flags & BSHM_ACQUIRE_COPY, frame, &reader->counters.retries,
                                 error);
    if (rc == BSHM_NO_PIN)
        rc = bshm_attachment_find(reader->attachment, seen, frame, &reader->counters.retries, error);
    if (rc == BSHM_FOUND)
        deliver(reader, frame);
    reader->pin_failed = rc == BSHM_NO_PIN;
    return rc == BSHM_NO_PIN ? BSHM_NOTHING : rc;
}

/* For a reader that is detached, or closed. BSHM_ATTACHED, or BSHM_NOTHING. */
static int attach_again(bshm_reader *reader, bshm_error *error)
{
    int rc = check_open(reader, error);
    if (rc < 0)
        return rc;
    int64_t now = bshm_os_coarse_now_ns();
    if (now < reader->next_attach_ns)
        return BSHM_NOTHING;
    reader->next_attach_ns = now + ATTACH_RETRY_NS;
    return attach_if_there(reader, error);
}

static int acquire(bshm_reader *reader, uint32_t flags, bshm_frame *frame, bshm_error *error)
{
    int rc;
    if (!reader->attachment && (rc = attach_again(reader, error)) != BSHM_ATTACHED)
        return rc;
    rc = BSHM_OK;
    /* First, or the newest frame of an ended segment would hide the successor's. The state may still be LIVE: a
     * writer that was killed never stored another. */
    if (flags & BSHM_ACQUIRE_SEEN)
        rc = check_for_successor(reader, flags, error);
    if (rc >= 0)
        rc = take_newest(reader, flags, frame, error);
    if (rc != BSHM_NOTHING)
        return rc;
    rc = check_for_successor(reader, flags, error);
    return rc == BSHM_AGAIN ? take_newest(reader, flags, frame, error) : rc;
}

int bshm_reader_acquire(bshm_reader *reader, uint32_t flags, bshm_frame *frame, bshm_error *error)
{
    enter(reader);
    int rc = acquire(reader, flags, frame, error);
    leave(reader);
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

/* A number that is in the window, and yet not there, was overwritten since, or punched out: it does not come back. */
static int take_next(bshm_reader *reader, uint32_t flags, bshm_frame *frame, bshm_error *error)
{
    uint64_t next = reader->seen + 1;
    if (reader->last == 0 || reader->attachment->identity.history == 0)
        return take_newest(reader, flags, frame, error);
    reader->pin_failed = false;
    for (uint32_t attempt = 0; attempt < BSHM_MAX_SLOTS; attempt++) {
        bshm_span span = bshm_attachment_span(reader->attachment);
        next = next > span.first ? next : span.first;
        if (next > span.last) {
            reader->pin_failed = span.last > reader->seen; /* forged: all of them are gone, and yet `latest` is newer */
            return BSHM_NOTHING;
        }
        int rc = take_number(reader, next, flags, frame, error);
        if (rc == BSHM_FOUND)
            deliver(reader, frame);
        if (rc != BSHM_NOTHING)
            return rc;
        next++;
    }
    reader->pin_failed = true; /* the writer was faster each time: wait a moment, but not for its next frame */
    return BSHM_NOTHING;
}

static int acquire_next(bshm_reader *reader, uint32_t flags, bshm_frame *frame, bshm_error *error)
{
    int rc = reader->attachment ? BSHM_ATTACHED : attach_again(reader, error);
    if (rc != BSHM_ATTACHED)
        return rc;
    rc = take_next(reader, flags, frame, error);
    if (rc == BSHM_NOTHING) {
        rc = check_for_successor(reader, flags, error);
        if (rc == BSHM_AGAIN)
            rc = take_next(reader, flags, frame, error);
    }
    reader->in_turn = true;
    return rc;
}

int bshm_reader_acquire_next(bshm_reader *reader, uint32_t flags, bshm_frame *frame, bshm_error *error)
{
    enter(reader);
    int rc = acquire_next(reader, flags, frame, error);
    leave(reader);
    return rc;
}

/* What is looked up: a number, or, if it is 0, the frame captured nearest to a time. */
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
    int rc = reader->attachment ? BSHM_ATTACHED : attach_again(reader, error);
    if (rc != BSHM_ATTACHED)
        return rc;
    /* First, or what an ended segment has kept would hide its successor's frames. Who reads in turn moves on there. */
    rc = reader->in_turn ? BSHM_NOTHING : check_for_successor(reader, flags | LOOK_UP, error);
    if (rc >= 0)
        rc = look_up_once(reader, number, capture_ns, flags, frame, error);
    if (rc != BSHM_NOTHING)
        return rc;
    rc = check_for_successor(reader, flags | LOOK_UP, error);
    return rc == BSHM_AGAIN ? look_up_once(reader, number, capture_ns, flags, frame, error) : rc;
}

int bshm_reader_acquire_number(bshm_reader *reader, uint64_t number, uint32_t flags, bshm_frame *frame,
                               bshm_error *error)
{
    enter(reader);
    int rc = number ? look_up(reader, number, 0, flags, frame, error) : check_open(reader, error);
    leave(reader);
    return rc;
}

int bshm_reader_acquire_nearest(bshm_reader *reader, int64_t capture_ns, uint32_t flags, bshm_frame *frame,
                                bshm_error *error)
{
    enter(reader);
    int rc = look_up(reader, 0, capture_ns, flags, frame, error);
    leave(reader);
    return rc;
}

int bshm_reader_history(bshm_reader *reader)
{
    enter(reader);
    int history = reader->attachment ? (int)reader->attachment->identity.history : -1;
    leave(reader);
    return history;
}

void bshm_reader_give_back(bshm_reader *reader, const bshm_frame *frame)
{
    enter(reader);
    reader->counters.frames--;
    reader->counters.copies--;
    reader->counters.retries++;
    reader->counters.skipped -= frame->skipped;
    reader->undelivered += frame->is_new ? frame->skipped + 1 : 0;
    leave(reader);
}

/* ---------------------------------------------------------------- waiting */

static int64_t min_ns(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Slot by slot, so that a frame which comes meanwhile does not wait for all of them. */
static void map_ahead(bshm_attachment *attachment, uint64_t seen)
{
    bool more = bshm_load_acquire32(&attachment->header->publication.state) == BSHM_STATE_LIVE;
    while (more && !is_newer(attachment, seen))
        more = bshm_attachment_map_ahead(attachment);
}

const void *bshm_reader_map_ahead(bshm_reader *reader, const bshm_attachment *attachment, uint32_t slot)
{
    enter(reader);
    bshm_attachment *current = reader->attachment;
    uint64_t seen = reader->seen;
    if (current != attachment)
        current = NULL;
    if (current)
        bshm_reference_take(&current->references);
    leave(reader);
    if (!current)
        return NULL;
    map_ahead(current, seen);
    const void *pixels = bshm_attachment_slot(current, slot);
    bshm_attachment_unreference(current);
    return pixels;
}

void bshm_reader_wait(bshm_reader *reader, int64_t timeout_ns)
{
    timeout_ns = min_ns(timeout_ns, WAIT_SLICE_NS);
    enter(reader);
    bshm_attachment *attachment = reader->attachment;
    uint64_t seen = reader->seen;
    if (reader->pin_failed)
        attachment = NULL;
    if (attachment)
        bshm_reference_take(&attachment->references); /* another thread may close the reader meanwhile */
    leave(reader);
    if (!attachment) {
        bshm_os_sleep(min_ns(timeout_ns, ATTACH_RETRY_NS));
        return;
    }
    const bshm_publication *publication = &attachment->header->publication;
    map_ahead(attachment, seen);
    uint32_t notify = bshm_load_acquire32(&publication->notify); /* before `latest`: later frames change it */
    if (!is_newer(attachment, seen)) {
        if (bshm_load_acquire32(&publication->state) == BSHM_STATE_LIVE)
            bshm_os_wait(&publication->notify.shared, notify, timeout_ns);
        else
            bshm_os_sleep(min_ns(timeout_ns, ATTACH_RETRY_NS)); /* no wake comes here: the successor has its own word */
    }
    bshm_attachment_unreference(attachment);
}

/* ---------------------------------------------------------------- status */

/* A name is freed by a clean close, or by cleaning after a writer died. If this segment was taken over and the name
 * is free, its successor was closed. */
static bool was_closed(const bshm_reader *reader)
{
    bshm_os_info now;
    uint32_t state = segment_state(reader->attachment);
    return state == BSHM_STATE_CLOSED || (state == BSHM_STATE_RETIRED && bshm_os_info_at(reader->path, &now) < 0);
}

/* The status of the segment that has the name, which this reader has not moved to yet. */
static int status_of_successor(const bshm_reader *reader)
{
    bshm_brief_file file;
    bshm_os_info info;
    bshm_identity identity;
    if (bshm_brief_open(&file, reader->path, reader->name, BSHM_OS_READ, &reader->trusted, &info, NULL) < 0)
        return BSHM_STATUS_DEAD;
    bool alive = bshm_identity_read(file.file, &info, reader->name, &identity, NULL) == BSHM_OK &&
                 bshm_os_is_locked(file.file, BSHM_WRITER_BYTE) == 1;
    bshm_brief_close(&file);
    return alive ? BSHM_STATUS_LIVE : BSHM_STATUS_DEAD;
}

/* Moves to the segment that has the name, unless this one has an unseen last frame. True: the reader is there. */
static bool follow_name(bshm_reader *reader)
{
    bshm_error ignored;
    if (has_name(reader))
        return true;
    return !has_new_frame(reader) && attach(reader, &ignored) == BSHM_OK;
}

int bshm_reader_status(bshm_reader *reader)
{
    int status = BSHM_STATUS_DETACHED;
    enter(reader);
    if (reader->attachment) {
        bool current = follow_name(reader);
        if (was_closed(reader))
            status = BSHM_STATUS_CLOSED;
        else if (!current && segment_state(reader->attachment) == BSHM_STATE_RETIRED)
            status = status_of_successor(reader);
        else
            status = writer_is_alive(reader->attachment) ? BSHM_STATUS_LIVE : BSHM_STATUS_DEAD;
    }
    leave(reader);
    return status;
}

int bshm_reader_ended(bshm_reader *reader)
{
    enter(reader);
    int ended = reader->attachment && was_closed(reader) && !has_new_frame(reader);
    leave(reader);
    return ended;
}

int bshm_reader_source(bshm_reader *reader, bshm_source_view *view)
{
    bool attached;
    bool whole = true;
    for (int retry = 0; retry <= BSHM_TEXT_RETRIES; retry++) {
        enter(reader);
        attached = reader->attachment != NULL;
        if (attached) {
            (void)follow_name(reader);
            whole = bshm_statistics_read(&reader->attachment->header->statistics, view) ||
                    !writer_is_alive(reader->attachment); /* a dead writer will not finish its text */
        }
        leave(reader);
        if (whole)
            break;
        bshm_os_sleep(BSHM_TEXT_RETRY_NS);
    }
    return attached ? BSHM_ATTACHED : BSHM_NOTHING;
}

void bshm_reader_get_counters(bshm_reader *reader, bshm_reader_counters *counters)
{
    enter(reader);
    *counters = reader->counters;
    leave(reader);
}

void bshm_reader_close(bshm_reader *reader)
{
    enter(reader);
    bshm_attachment *old = reader->attachment;
    reader->attachment = NULL;
    reader->closed = true;
    give_up_inherited(reader);
    bshm_attachment_unreference(old);
    leave(reader);
}

void bshm_reader_free(bshm_reader *reader)
{
    if (!reader)
        return;
    bshm_reader_close(reader);
    bshm_os_leave_fork_list(&reader->fork_member);
    bshm_os_mutex_destroy(&reader->mutex);
    free(reader);
}
