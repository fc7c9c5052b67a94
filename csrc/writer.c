/* writer.c - loan, copy, publish. */
#include "copy.h"
#include "protocol.h"
#include "segment.h"
#include "statistics.h"

#include <stdlib.h>
#include <string.h>

#define NAME_CHECK_NS   (INT64_C(1000) * BSHM_NS_PER_MS) /* how often the name is checked to lead to this segment */
#define GROWTH_RETRY_NS (100 * BSHM_NS_PER_MS)           /* after memory for another slot was refused */
#define NO_SLOT         UINT32_MAX

struct bshm_writer {
    bshm_os_fork_member fork_member;
    bool inherited;        /* this is a forked child: the writer is the parent's */
    bshm_os_mutex mutex;   /* the protocol has one writer thread at a time; callers may have many */
    bshm_segment *segment; /* null: closed */
    uint64_t sequence;     /* number of the last frame published */
    uint32_t lent;         /* slot of the open loan, or NO_SLOT */
    uint64_t lent_bytes;   /* how many bytes its frame may take */
    uint32_t window; /* how many slots at the beginning of `order` hold the newest frame and the history before it */
    uint32_t order[BSHM_MAX_SLOTS]; /* the backed slots, most recently published first */
    int64_t last_capture_ns;        /* when the last frame that was not a placeholder was published */
    int64_t next_name_check_ns;
    bshm_error refusal; /* code 0: none. Why this writer has lost its name for good */
    int64_t next_growth_ns;
    bshm_error growth_error; /* of the last attempt to grow that failed */
    bshm_writer_options options;
    bshm_trusted trusted;
    bshm_writer_counters totals; /* summed over the segments that were replaced */
    bshm_kept_report source;     /* the last report, for the next segment */
    char name[BSHM_OS_PATH_BYTES];
    char path[BSHM_OS_PATH_BYTES];
};

/* ---------------------------------------------------------------- segments */

static void use_segment(bshm_writer *writer, bshm_segment *segment)
{
    writer->segment = segment;
    writer->window = 0;
    for (uint32_t i = 0; i < BSHM_MAX_SLOTS; i++)
        writer->order[i] = i;
    writer->next_growth_ns = 0;
    writer->next_name_check_ns = bshm_os_now_ns() + NAME_CHECK_NS;
    bshm_statistics_report(&segment->header->statistics, &writer->source.report);
    bshm_store_relaxed(&segment->header->statistics.last_capture_ns, (uint64_t)writer->last_capture_ns);
    bshm_store_relaxed(&segment->header->statistics.heartbeat_ns, (uint64_t)bshm_os_now_ns());
}

/* Adds the counters of `segment`; its sizes and the reported words replace earlier ones. */
static void add_counters(const bshm_segment *segment, bshm_writer_counters *counters)
{
    bshm_statistics_add(&counters->statistics, &segment->header->statistics);
    counters->backed_bytes = bshm_backed_bytes(&segment->identity, segment->backed);
    counters->total_bytes = segment->identity.total_bytes;
    memcpy(counters->generation, segment->identity.generation, sizeof counters->generation);
}

/* A segment of `capacity` under the same name; the count continues. The old one stays mapped for the frames held. */
static int replace_segment(bshm_writer *writer, uint64_t capacity, bshm_error *error)
{
    bshm_segment *next;
    bshm_writer_options options = writer->options;
    options.slot_capacity = capacity;
    int rc = bshm_segment_create(&next, writer->path, writer->name, &options, &writer->trusted, writer->segment,
                                 &writer->sequence, error);
    if (rc < 0)
        return rc;
    bshm_segment *old = writer->segment;
    add_counters(old, &writer->totals);
    writer->totals.replacements++;
    writer->options.slot_capacity = capacity;
    use_segment(writer, next);
    bshm_segment_end(old, BSHM_STATE_RETIRED, writer->path);
    return BSHM_OK;
}

static bool belong_to_parent(bshm_os_fork_member *member)
{
    ((bshm_writer *)member)->inherited = true;
    return true;
}

int bshm_writer_create(bshm_writer **created, const char *name, const bshm_writer_options *options, bshm_error *error)
{
    bshm_segment *segment;
    bshm_writer *writer = calloc(1, sizeof *writer);
    if (!writer)
        return bshm_fail(error, BSHM_E_MEMORY, "out of memory: cannot create a writer");
    bshm_os_mutex_init(&writer->mutex);
    writer->lent = NO_SLOT;
    writer->options = *options;
    bshm_source_report_init(&writer->source.report);
    int rc = bshm_object_path(name, writer->path, sizeof writer->path, error);
    if (rc == BSHM_OK)
        rc = bshm_trusted_copy(&writer->trusted, &options->trusted, error);
    if (rc == BSHM_OK) {
        memcpy(writer->name, name, strlen(name) + 1); /* fits: bshm_object_path checked */
        rc = bshm_segment_create(&segment, writer->path, writer->name, options, &writer->trusted, NULL,
                                 &writer->sequence, error);
    }
    if (rc < 0) {
        bshm_os_mutex_destroy(&writer->mutex);
        free(writer);
        return rc;
    }
    use_segment(writer, segment);
    bshm_os_join_fork_list(&writer->fork_member, belong_to_parent);
    *created = writer;
    return BSHM_OK;
}

/* ---------------------------------------------------------------- choosing a slot */

/* W1 to W3 over the slots with memory that are not in the window. The one published last before those of the window
 * is the most likely to be still in a cache: while no reader holds a frame, two slots take turns. Compared with the
 * opposite order, three in turn, that took 0.95 of the time for a write and a read of every pixel at 1080p, 0.94 at 4K,
 * and no more at any size. Any order will do for the proof that one pass finds a slot. */
static uint32_t claim_backed(const bshm_writer *writer)
{
    const bshm_segment *segment = writer->segment;
    for (uint32_t i = writer->window; i < segment->backed; i++)
        if (bshm_step_claim_slot(segment->control, writer->order[i], segment->identity.token_count))
            return writer->order[i];
    return NO_SLOT;
}

/* W1, the slot that gets memory now. It is already in its place in `order`: the last, never published. */
static int claim_unbacked(bshm_writer *writer, uint32_t *slot, bshm_error *error)
{
    bshm_segment *segment = writer->segment;
    uint32_t fresh = segment->backed;
    int64_t now = bshm_os_now_ns();
    if (now < writer->next_growth_ns) {
        if (error)
            *error = writer->growth_error;
        return writer->growth_error.code;
    }
    int rc = bshm_segment_grow(segment, writer->path, &writer->growth_error);
    if (rc < 0) {
        writer->next_growth_ns = now + GROWTH_RETRY_NS;
        bshm_clear_dead_tokens(segment->lock_file, segment->control, &segment->identity);
        *slot = claim_backed(writer);
        if (*slot != NO_SLOT)
            return BSHM_OK;
        if (error)
            *error = writer->growth_error;
        return rc;
    }
    if (!bshm_step_claim_slot(segment->control, fresh, segment->identity.token_count))
        bshm_seize_acquire(&segment->control->pins[fresh].word, BSHM_PIN_WRITING); /* forged: never published */
    *slot = fresh;
    return BSHM_OK;
}

/* Only forged pins lead here: S - 1 - H slots are candidates for S - 2 - H tokens, so one pass finds a slot
 * (tests/core/model/availability.pml). */
static uint32_t seize_oldest(bshm_writer *writer)
{
    bshm_segment *segment = writer->segment;
    uint32_t slot = writer->order[segment->backed - 1];
    bshm_seize_acquire(&segment->control->pins[slot].word, BSHM_PIN_WRITING);
    bshm_add_relaxed(&segment->header->statistics.leases_broken, 1);
    return slot;
}

/* BSHM_DROPPED: no memory for another slot. */
static int claim_slot(bshm_writer *writer, uint32_t *slot, bshm_error *error)
{
    bshm_segment *segment = writer->segment;
    *slot = claim_backed(writer);
    if (*slot != NO_SLOT)
        return BSHM_OK;
    if (segment->backed < segment->identity.slot_count) {
        int rc = claim_unbacked(writer, slot, error);
        if (rc < 0)
            bshm_add_relaxed(&segment->header->statistics.dropped, 1);
        return rc < 0 ? BSHM_DROPPED : BSHM_OK;
    }
    for (uint32_t pass = 1; pass < segment->identity.slot_count && *slot == NO_SLOT; pass++)
        *slot = claim_backed(writer);
    if (*slot == NO_SLOT)
        *slot = seize_oldest(writer);
    return BSHM_OK;
}

static void move_to_front(bshm_writer *writer, uint32_t slot)
{
    uint32_t moved = slot;
    for (uint32_t at = 0; at == 0 || moved != slot; at++) {
        uint32_t here = writer->order[at];
        writer->order[at] = moved;
        moved = here;
    }
}

/* ---------------------------------------------------------------- loan and publish, under the mutex */

/* Locks the writer, if it can be used. In a forked child, a thread that does not exist there may hold the mutex
 * forever: it is not touched. */
static int enter(bshm_writer *writer, bshm_error *error)
{
    if (writer->inherited)
        return bshm_fail(error, BSHM_E_CLOSED,
                         "the writer of '%s' belongs to the parent of this forked process: create one here, "
                         "under another name",
                         writer->name);
    bshm_os_mutex_lock(&writer->mutex);
    if (writer->segment)
        return BSHM_OK;
    int rc = writer->refusal.code;
    if (rc < 0 && error)
        *error = writer->refusal;
    bshm_os_mutex_unlock(&writer->mutex);
    return rc < 0 ? rc : bshm_fail(error, BSHM_E_CLOSED, "the writer of '%s' is closed", writer->name);
}

static void leave(bshm_writer *writer)
{
    bshm_os_mutex_unlock(&writer->mutex);
}

/* Its counters are kept. */
static void end_segment(bshm_writer *writer, uint32_t state)
{
    bshm_segment *old = writer->segment;
    add_counters(old, &writer->totals);
    writer->segment = NULL;
    bshm_segment_end(old, state, writer->path);
}

/* True: the name belongs to a living writer's segment, or to a file that is not a segment, and does not come back. */
static bool is_taken(const bshm_writer *writer, int rc)
{
    bshm_os_info info;
    return (rc == BSHM_E_EXISTS || rc == BSHM_E_FORMAT || rc == BSHM_E_PERMISSION) &&
           bshm_os_info_at(writer->path, &info) == 0 && !bshm_os_same_object(&info, &writer->segment->info);
}

/* If another process has the name, this writer has lost it for good, and every call fails with that from now on. */
static int replace_or_refuse(bshm_writer *writer, uint64_t capacity, bshm_error *error)
{
    bshm_error failure = {0};
    int rc = replace_segment(writer, capacity, &failure);
    if (is_taken(writer, rc)) {
        writer->refusal = failure;
        end_segment(writer, BSHM_STATE_RETIRED);
    }
    if (rc < 0 && error)
        *error = failure;
    return rc;
}

/* Makes sure that the segment can hold `bytes` and has the name. */
static int ensure_segment(bshm_writer *writer, uint64_t bytes, int64_t now, bshm_error *error)
{
    if (bytes > writer->segment->identity.slot_capacity)
        return replace_or_refuse(writer, bytes, error);
    if (now < writer->next_name_check_ns)
        return BSHM_OK;
    writer->next_name_check_ns = now + NAME_CHECK_NS;
    if (bshm_segment_has_name(writer->segment, writer->path))
        return BSHM_OK;
    /* The name was removed. Other failures (no memory, too many open files) cost no frame: attached readers still see
     * this segment. The next attempt is in a second. */
    int rc = replace_or_refuse(writer, writer->options.slot_capacity, error);
    return writer->segment ? BSHM_OK : rc;
}

static int begin_frame(bshm_writer *writer, bshm_frame_info *info, uint32_t *slot, bshm_error *error)
{
    int64_t now = bshm_os_now_ns();
    int rc = BSHM_OK;
    if (writer->lent != NO_SLOT)
        rc = bshm_fail(error, BSHM_E_LOAN, "a slot of '%s' is lent already: publish or cancel it first", writer->name);
    if (rc == BSHM_OK)
        rc = bshm_info_plan(info, error);
    if (rc == BSHM_OK)
        rc = ensure_segment(writer, info->payload_bytes, now, error);
    if (rc == BSHM_OK)
        rc = claim_slot(writer, slot, error);
    if (rc == BSHM_OK) {
        bshm_step_begin_write(writer->segment->header, *slot, writer->sequence + 1); /* W4, W5 */
        if (info->capture_ns == 0)
            info->capture_ns = now;
    }
    return rc;
}

static unsigned log2_bucket(uint64_t ns)
{
    unsigned bits = ns == 0 ? 0 : 64 - (unsigned)__builtin_clzll(ns);
    return bits < BSHM_LATENCY_BUCKETS ? bits : BSHM_LATENCY_BUCKETS - 1;
}

static void count_frame(bshm_writer *writer, const bshm_frame_info *info, int64_t now, int64_t spent_ns)
{
    bshm_statistics *statistics = &writer->segment->header->statistics;
    uint64_t spent = spent_ns > 0 ? (uint64_t)spent_ns : 0;
    bshm_add_relaxed(&statistics->published, 1);
    bshm_add_relaxed(&statistics->bytes_written, info->payload_bytes);
    bshm_add_relaxed(&statistics->write_ns_total, spent);
    bshm_add_relaxed(&statistics->write_ns_log2[log2_bucket(spent)], 1);
    bshm_store_relaxed(&statistics->heartbeat_ns, (uint64_t)now);
    if (info->flags & BSHM_FRAME_PLACEHOLDER)
        return;
    writer->last_capture_ns = info->publish_ns; /* not capture_ns, which depends on the source's clock */
    bshm_store_relaxed(&statistics->last_capture_ns, (uint64_t)info->publish_ns);
}

/* W6 to W12. `spent_ns`: what the frame took before `started_ns`. */
static uint64_t finish_frame(bshm_writer *writer, bshm_frame_info *info, uint32_t slot, int64_t started_ns,
                             int64_t spent_ns)
{
    bshm_header *header = writer->segment->header;
    uint64_t n = ++writer->sequence;
    info->sequence = n;
    info->publish_ns = bshm_os_now_ns();
    if (info->wall_ns == 0)
        info->wall_ns = bshm_os_wall_ns();
    bshm_step_store_descriptor(header, slot, info);          /* W6 */
    bshm_step_end_write(header, slot, n);                    /* W7, W8 */
    bshm_step_clear_writing(writer->segment->control, slot); /* W9 */
    bshm_step_store_latest(header, slot, n);                 /* W10 */
    bshm_step_bump_notify(header);                           /* W11, W12 */
    bshm_os_wake_all(&header->publication.notify.shared);
    move_to_front(writer, slot);
    writer->window += writer->window <= writer->options.history;
    int64_t now = bshm_os_now_ns();
    count_frame(writer, info, now, spent_ns + now - started_ns);
    return n;
}

static void cancel_lent(bshm_writer *writer)
{
    if (writer->lent != NO_SLOT)
        bshm_step_clear_writing(writer->segment->control, writer->lent); /* seq stays odd */
    writer->lent = NO_SLOT;
}

/* ---------------------------------------------------------------- public */

int bshm_writer_loan(bshm_writer *writer, const bshm_frame_info *info, bshm_loan *loan, bshm_error *error)
{
    int64_t started = bshm_os_now_ns();
    *loan = (bshm_loan){.info = *info};
    int rc = enter(writer, error);
    if (rc < 0)
        return rc;
    rc = begin_frame(writer, &loan->info, &loan->slot, error);
    if (rc == BSHM_OK) {
        writer->lent = loan->slot;
        writer->lent_bytes = loan->info.payload_bytes;
        loan->segment = writer->segment;
        loan->pixels = writer->segment->slots[loan->slot];
        loan->open = 1;
        bshm_reference_take(&writer->segment->references);
    }
    leave(writer);
    loan->claim_ns = bshm_os_now_ns() - started;
    return rc;
}

/* The writer still has this loan open: close did not cancel it, and the segment was not replaced. */
static bool is_lent(const bshm_writer *writer, const bshm_loan *loan)
{
    return loan->open && writer->segment == loan->segment && writer->lent == loan->slot;
}

int bshm_writer_publish(bshm_writer *writer, bshm_loan *loan, uint64_t *sequence, bshm_error *error)
{
    int64_t started = bshm_os_now_ns();
    int rc = enter(writer, error);
    if (rc < 0)
        return rc;
    if (!is_lent(writer, loan))
        rc = bshm_fail(error, BSHM_E_LOAN, "this slot of '%s' was published or cancelled already: take a new loan",
                       writer->name);
    if (rc == BSHM_OK)
        rc = bshm_info_plan(&loan->info, error);
    if (rc == BSHM_OK && loan->info.payload_bytes > writer->lent_bytes)
        rc = bshm_fail(error, BSHM_E_SHAPE, "a frame of %llu bytes does not fit a loan of %llu: take a larger loan",
                       (unsigned long long)loan->info.payload_bytes, (unsigned long long)writer->lent_bytes);
    if (rc == BSHM_OK) {
        *sequence = finish_frame(writer, &loan->info, loan->slot, started, loan->claim_ns);
        writer->lent = NO_SLOT;
        loan->open = 0;
    }
    leave(writer);
    return rc;
}

void bshm_writer_cancel(bshm_writer *writer, bshm_loan *loan)
{
    if (enter(writer, NULL) == BSHM_OK) {
        if (is_lent(writer, loan))
            cancel_lent(writer);
        leave(writer);
    }
    loan->open = 0;
}

void bshm_loan_release(bshm_loan *loan)
{
    bshm_segment_unreference(loan->segment);
    loan->segment = NULL;
    loan->pixels = NULL;
}

int bshm_writer_write(bshm_writer *writer, const bshm_frame_info *info, const void *source, ptrdiff_t source_stride,
                      uint64_t *sequence, bshm_error *error)
{
    bshm_frame_info planned = *info;
    uint32_t slot;
    int64_t started = bshm_os_now_ns();
    int rc = enter(writer, error);
    if (rc < 0)
        return rc;
    rc = begin_frame(writer, &planned, &slot, error);
    if (rc == BSHM_OK) {
        bshm_copy_rows(writer->segment->slots[slot], (size_t)planned.row_stride, source, source_stride,
                       (size_t)planned.row_stride, planned.height);
        *sequence = finish_frame(writer, &planned, slot, started, 0);
    }
    leave(writer);
    return rc;
}

int bshm_writer_report(bshm_writer *writer, const bshm_source_report *report, bshm_error *error)
{
    int rc = enter(writer, error);
    if (rc < 0)
        return rc;
    bshm_report_keep(&writer->source, report);
    if (writer->lent == NO_SLOT) /* so that the writer gets its name back even while the source delivers no frames */
        rc = ensure_segment(writer, 0, bshm_os_now_ns(), error);
    if (rc == BSHM_OK) {
        bshm_statistics_report(&writer->segment->header->statistics, report);
        bshm_store_relaxed(&writer->segment->header->statistics.heartbeat_ns, (uint64_t)bshm_os_now_ns());
    }
    leave(writer);
    return rc;
}

void bshm_writer_get_counters(bshm_writer *writer, bshm_writer_counters *counters)
{
    int rc = enter(writer, NULL);
    *counters = writer->totals;
    counters->sequence = writer->sequence;
    if (rc < 0)
        return; /* closed: they no longer change */
    add_counters(writer->segment, counters);
    leave(writer);
}

int bshm_writer_has_readers(bshm_writer *writer)
{
    const uint64_t last = BSHM_READER_BYTE + 2 * BSHM_MAX_READERS - 1;
    uint64_t from, to;
    if (enter(writer, NULL) < 0)
        return 0;
    int found = bshm_os_find_locked(writer->segment->lock_file, BSHM_READER_BYTE, last, false, &from, &to) == 1;
    leave(writer);
    return found;
}

void bshm_writer_close(bshm_writer *writer)
{
    if (writer->inherited)
        return; /* a forked child, which owns nothing */
    bshm_os_mutex_lock(&writer->mutex);
    writer->refusal.code = BSHM_OK;
    if (writer->segment) {
        cancel_lent(writer);
        end_segment(writer, BSHM_STATE_CLOSED);
    }
    leave(writer);
}

void bshm_writer_free(bshm_writer *writer)
{
    if (!writer)
        return;
    bshm_writer_close(writer);
    bshm_segment_unreference(writer->segment); /* the parent's, in a forked child; otherwise null */
    bshm_os_leave_fork_list(&writer->fork_member);
    bshm_os_mutex_destroy(&writer->mutex);
    free(writer);
}
