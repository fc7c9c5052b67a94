/* reader.c - follows one name through its segments: attach, wait, status. */
#include "reader.h"

#include "statistics.h"

#include <stdlib.h>
#include <string.h>

#define CHECK_INTERVAL_NS (100 * BSHM_NS_PER_MS) /* how often the name is checked while the state is LIVE */
#define ATTACH_RETRY_NS   (5 * BSHM_NS_PER_MS)   /* how often a missing segment is looked for */
#define WAIT_SLICE_NS     (100 * BSHM_NS_PER_MS) /* then the caller can handle signals */

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

int bshm_reader_check_open(const bshm_reader *reader, bshm_error *error)
{
    return reader->closed ? bshm_fail(error, BSHM_E_CLOSED, "the reader of '%s' is closed", reader->name) : BSHM_OK;
}

static uint32_t segment_state(const bshm_attachment *attachment)
{
    return bshm_load_acquire32(&attachment->header->publication.state);
}

static void use_attachment(bshm_reader *reader, bshm_attachment *attachment)
{
    bshm_attachment *former = reader->attachment;
    reader->counters.ends += former && segment_state(former) == BSHM_STATE_CLOSED;
    reader->attachment = attachment;
    bshm_attachment_unreference(former);
    reader->next_check_ns = bshm_os_coarse_now_ns() + CHECK_INTERVAL_NS;
    reader->pin_failed = false;
    reader->unreadable = 0;
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

static bool writer_is_alive(const bshm_attachment *attachment)
{
    return bshm_os_is_locked(attachment->data_file, BSHM_WRITER_BYTE) == 1;
}

static bool has_name(const bshm_reader *reader)
{
    bshm_os_info now;
    return bshm_os_info_at(reader->path, &now) == 0 && bshm_os_same_object(&now, &reader->attachment->info);
}

/* A corrupt `latest` does not count: it would keep the reader from the successor forever. */
static bool has_new_frame(const bshm_reader *reader)
{
    uint64_t latest = bshm_step_load_latest(reader->attachment->header);
    return BSHM_LATEST_SEQUENCE(latest) > reader->seen && latest != reader->unreadable;
}

/* BSHM_ATTACHED, or BSHM_NOTHING: no segment. */
static int attach_if_there(bshm_reader *reader, bshm_error *error)
{
    int rc = attach(reader, error);
    return rc == BSHM_OK ? BSHM_ATTACHED : rc == BSHM_E_NOT_FOUND ? BSHM_NOTHING : rc;
}

int bshm_reader_check_for_successor(bshm_reader *reader, uint32_t flags, bshm_error *error)
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
    /* The last frame may have arrived after the first load of `latest`: it is read before the successor's frames. */
    if (has_new_frame(reader) && (reader->in_turn || !(flags & BSHM_ACQUIRE_LOOK_UP)))
        return BSHM_AGAIN;
    int rc = attach_if_there(reader, error);
    return rc == BSHM_ATTACHED ? BSHM_AGAIN : rc;
}

int bshm_reader_attach_again(bshm_reader *reader, bshm_error *error)
{
    int rc = bshm_reader_check_open(reader, error);
    if (rc < 0)
        return rc;
    int64_t now = bshm_os_coarse_now_ns();
    if (now < reader->next_attach_ns)
        return BSHM_NOTHING;
    reader->next_attach_ns = now + ATTACH_RETRY_NS;
    return attach_if_there(reader, error);
}

int bshm_reader_attach(bshm_reader *reader, bshm_error *error)
{
    bshm_reader_enter(reader);
    int rc = bshm_reader_check_open(reader, error);
    if (rc == BSHM_OK && !(reader->attachment && has_name(reader)))
        rc = attach(reader, error);
    reader->pin_failed = rc < 0;
    bshm_reader_leave(reader);
    return rc;
}

/* ---------------------------------------------------------------- waiting */

static int64_t min_ns(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Slot by slot, so that a frame that arrives in the meantime does not wait for all of them. */
static void map_ahead(bshm_attachment *attachment, uint64_t seen)
{
    bool more = bshm_load_acquire32(&attachment->header->publication.state) == BSHM_STATE_LIVE;
    while (more && !bshm_attachment_is_newer(attachment, seen))
        more = bshm_attachment_map_ahead(attachment);
}

const void *bshm_reader_map_ahead(bshm_reader *reader, const bshm_attachment *attachment, uint32_t slot)
{
    bshm_reader_enter(reader);
    bshm_attachment *current = reader->attachment;
    uint64_t seen = reader->seen;
    if (current != attachment)
        current = NULL;
    if (current)
        bshm_reference_take(&current->references);
    bshm_reader_leave(reader);
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
    bshm_reader_enter(reader);
    bshm_attachment *attachment = reader->attachment;
    uint64_t seen = reader->seen;
    if (reader->pin_failed)
        attachment = NULL;
    if (attachment)
        bshm_reference_take(&attachment->references); /* another thread may close the reader in the meantime */
    bshm_reader_leave(reader);
    if (!attachment) {
        bshm_os_sleep(min_ns(timeout_ns, ATTACH_RETRY_NS));
        return;
    }
    const bshm_publication *publication = &attachment->header->publication;
    map_ahead(attachment, seen);
    uint32_t notify = bshm_load_acquire32(&publication->notify); /* before `latest`: later frames change it */
    if (!bshm_attachment_is_newer(attachment, seen)) {
        if (bshm_load_acquire32(&publication->state) == BSHM_STATE_LIVE)
            bshm_os_wait(&publication->notify.shared, notify, timeout_ns);
        else
            bshm_os_sleep(min_ns(timeout_ns, ATTACH_RETRY_NS)); /* no wake reaches us: the successor has its own word */
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

/* Moves to the segment that has the name, unless this one has an unseen last frame; a reader that has had no frame
 * misses none, because its first one is the newest anyway. True: the reader is there. */
static bool follow_name(bshm_reader *reader)
{
    bshm_error ignored;
    if (has_name(reader))
        return true;
    return (reader->last == 0 || !has_new_frame(reader)) && attach(reader, &ignored) == BSHM_OK;
}

int bshm_reader_status(bshm_reader *reader)
{
    int status = BSHM_STATUS_DETACHED;
    bshm_reader_enter(reader);
    if (reader->attachment) {
        bool current = follow_name(reader);
        if (was_closed(reader))
            status = BSHM_STATUS_CLOSED;
        else if (!current && segment_state(reader->attachment) == BSHM_STATE_RETIRED)
            status = status_of_successor(reader);
        else
            status = writer_is_alive(reader->attachment) ? BSHM_STATUS_LIVE : BSHM_STATUS_DEAD;
    }
    bshm_reader_leave(reader);
    return status;
}

int bshm_reader_ended(bshm_reader *reader)
{
    bshm_reader_enter(reader);
    int ended = reader->attachment && was_closed(reader) && !has_new_frame(reader);
    bshm_reader_leave(reader);
    return ended;
}

int bshm_reader_source(bshm_reader *reader, bshm_source_view *view)
{
    bool attached;
    bool whole = true;
    for (int retry = 0; retry <= BSHM_TEXT_RETRIES; retry++) {
        bshm_reader_enter(reader);
        attached = reader->attachment != NULL;
        if (attached) {
            (void)follow_name(reader);
            whole = bshm_statistics_read(&reader->attachment->header->statistics, view) ||
                    !writer_is_alive(reader->attachment); /* a dead writer will not finish its text */
        }
        bshm_reader_leave(reader);
        if (whole)
            break;
        bshm_os_sleep(BSHM_TEXT_RETRY_NS);
    }
    return attached ? BSHM_ATTACHED : BSHM_NOTHING;
}

int bshm_reader_history(bshm_reader *reader)
{
    bshm_reader_enter(reader);
    int history = reader->attachment ? (int)reader->attachment->identity.history : -1;
    bshm_reader_leave(reader);
    return history;
}

void bshm_reader_get_counters(bshm_reader *reader, bshm_reader_counters *counters)
{
    bshm_reader_enter(reader);
    *counters = reader->counters;
    bshm_reader_leave(reader);
}

void bshm_reader_close(bshm_reader *reader)
{
    bshm_reader_enter(reader);
    bshm_attachment *old = reader->attachment;
    reader->attachment = NULL;
    reader->closed = true;
    give_up_inherited(reader);
    bshm_attachment_unreference(old);
    bshm_reader_leave(reader);
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
