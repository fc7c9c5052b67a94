/* frame.c - frames of an attachment: pinned, copied, released. */
#include "attachment.h"
#include "copy.h"
#include "protocol.h"

#include <string.h>

static int check_slot(const bshm_attachment *attachment, uint64_t latest, bshm_error *error)
{
    if (BSHM_LATEST_SLOT(latest) < attachment->identity.slot_count)
        return BSHM_OK;
    return bshm_fail(error, BSHM_E_FORMAT,
                     "segment '%s' is corrupt: its newest frame is in slot %u, but it has %u slots", attachment->name,
                     BSHM_LATEST_SLOT(latest), attachment->identity.slot_count);
}

static uint64_t slot_offset(const bshm_attachment *attachment, uint32_t slot)
{
    return attachment->identity.pixels_offset + slot * attachment->identity.slot_stride;
}

/* Maps a slot that has memory, under the mutex. */
static int map_to_read(bshm_attachment *attachment, uint32_t slot, bshm_error *error)
{
    if (attachment->slots[slot])
        return BSHM_OK;
    return bshm_object_map(attachment->data_file, slot_offset(attachment, slot), attachment->identity.slot_stride, 0,
                           attachment->name, &attachment->slots[slot], error);
}

bool bshm_attachment_map_ahead(bshm_attachment *attachment)
{
    if (!attachment->control)
        return false; /* an observer copies by pread */
    /* Relaxed: a hint only. Memory is checked before it is touched. Only a take-over punches slots. If it does so
     * between the check and the touch, this reader holds that memory until it moves on, within 100 ms. */
    uint64_t backed = bshm_load_relaxed(&attachment->header->statistics.backed_slots);
    bshm_os_mutex_lock(&attachment->mutex);
    uint32_t slot = attachment->ahead;
    bool more = slot < backed && slot < attachment->identity.slot_count;
    if (more) {
        attachment->ahead++;
        if (bshm_os_has_no_hole(attachment->data_file, slot_offset(attachment, slot), attachment->identity.slot_stride))
            (void)map_to_read(attachment, slot, NULL); /* tried again, and reported, when there is a frame in it */
    }
    bshm_os_mutex_unlock(&attachment->mutex);
    return more;
}

const void *bshm_attachment_slot(bshm_attachment *attachment, uint32_t slot)
{
    bshm_os_mutex_lock(&attachment->mutex);
    const void *pixels = slot < BSHM_MAX_SLOTS ? attachment->slots[slot] : NULL;
    bshm_os_mutex_unlock(&attachment->mutex);
    return pixels;
}

/* Fills in all of the frame except the pin; frame->info is already a copy of the descriptor. */
static int fill_frame(bshm_attachment *attachment, uint32_t slot, uint64_t seq, bshm_frame *frame, bshm_error *error)
{
    int rc = bshm_info_check(&frame->info, attachment->identity.slot_capacity, attachment->name, error);
    if (rc < 0)
        return rc;
    frame->info.sequence = seq >> 1; /* from seq, not from the descriptor */
    memcpy(frame->generation, attachment->identity.generation, sizeof frame->generation);
    frame->attachment = attachment;
    frame->pixels = NULL;
    frame->seq = seq;
    frame->slot = slot;
    frame->lease = -1;
    frame->pinned = 0;
    frame->to_copy = 1;
    bshm_reference_take(&attachment->references);
    return BSHM_OK;
}

/* The lease that already pins the newest frame, so that one more frame can share it; or null. */
static bshm_lease *find_lease(bshm_attachment *attachment, uint64_t latest)
{
    for (uint32_t i = 0; i < BSHM_MAX_SLOTS; i++) {
        bshm_lease *lease = &attachment->leases[i];
        if (lease->frames > 0 && lease->slot == BSHM_LATEST_SLOT(latest) &&
            lease->seq == 2 * BSHM_LATEST_SEQUENCE(latest))
            return lease;
    }
    return NULL;
}

static int fill_pinned(bshm_attachment *attachment, bshm_lease *lease, uint32_t slot, uint64_t seq, bool to_copy,
                       bshm_frame *frame, bshm_error *error)
{
    int rc = map_to_read(attachment, slot, error);
    if (rc == BSHM_OK)
        rc = fill_frame(attachment, slot, seq, frame, error);
    if (rc < 0)
        return rc;
    lease->slot = slot;
    lease->seq = seq;
    lease->frames++;
    frame->pixels = attachment->slots[slot];
    frame->lease = (int32_t)(lease - attachment->leases);
    frame->pinned = 1;
    frame->to_copy = to_copy || lease->transient;
    lease->views += !frame->to_copy;
    return BSHM_FOUND;
}

/* R2 to R4 of frame n, or, unless it has to be that one, a newer one. BSHM_NO_PIN: try again from R0. */
static int pin_slot(bshm_attachment *attachment, bshm_lease *lease, uint32_t slot, uint64_t n, bool exactly,
                    bool to_copy, bshm_frame *frame, bshm_error *error)
{
    uint64_t seq;
    if (!bshm_step_pin(attachment->control, slot, lease->token)) /* R2, R3 */
        return BSHM_NO_PIN;
    int rc = BSHM_NO_PIN;
    if (bshm_step_load_descriptor(attachment->header, slot, n, &seq, &frame->info) && /* R4 */
        (!exactly || seq == 2 * n))
        rc = fill_pinned(attachment, lease, slot, seq, to_copy, frame, error);
    if (rc != BSHM_FOUND)
        bshm_step_unpin(attachment->control, slot, lease->token);
    return rc;
}

/* R0 to R4 with a token. BSHM_NO_PIN: try again. */
static int pin_newest(bshm_attachment *attachment, bshm_lease *lease, uint64_t seen, bool to_copy, bshm_frame *frame,
                      bshm_error *error)
{
    bshm_step_fence_token();                                     /* R0 */
    uint64_t latest = bshm_step_load_latest(attachment->header); /* R1 */
    uint64_t n = BSHM_LATEST_SEQUENCE(latest);
    uint32_t slot = BSHM_LATEST_SLOT(latest);
    if (n <= seen)
        return BSHM_NOTHING;
    int rc = check_slot(attachment, latest, error);
    return rc < 0 ? rc : pin_slot(attachment, lease, slot, n, false, to_copy, frame, error);
}

/* One more frame on a pin that this reader has, without a token. BSHM_NO_PIN: there is no such pin. */
static int share_pin(bshm_attachment *attachment, uint64_t seen, bool to_copy, bshm_frame *frame, bshm_error *error)
{
    uint64_t seq;
    uint64_t latest = bshm_step_load_latest(attachment->header);
    uint64_t n = BSHM_LATEST_SEQUENCE(latest);
    bshm_lease *lease = n > seen ? find_lease(attachment, latest) : NULL;
    if (!lease || !bshm_step_load_descriptor(attachment->header, lease->slot, n, &seq, &frame->info) ||
        seq != lease->seq)
        return BSHM_NO_PIN;
    return fill_pinned(attachment, lease, lease->slot, seq, to_copy, frame, error);
}

static int release_unused(bshm_attachment *attachment, bshm_lease *lease, int rc)
{
    if (rc != BSHM_FOUND && lease->transient)
        bshm_token_release(attachment, lease);
    return rc;
}

static int pin_locked(bshm_attachment *attachment, uint64_t seen, bool to_copy, bshm_frame *frame, uint64_t *retries,
                      bshm_error *error)
{
    int rc = share_pin(attachment, seen, to_copy, frame, error);
    if (rc != BSHM_NO_PIN)
        return rc;
    bshm_lease *lease = bshm_token_take(attachment, to_copy);
    if (!lease)
        return BSHM_NO_PIN;
    for (int attempt = 0; attempt < BSHM_READ_ATTEMPTS; attempt++) {
        rc = pin_newest(attachment, lease, seen, to_copy, frame, error);
        if (rc != BSHM_NO_PIN)
            break;
        ++*retries;
    }
    return release_unused(attachment, lease, rc);
}

int bshm_attachment_pin(bshm_attachment *attachment, uint64_t seen, bool to_copy, bshm_frame *frame, uint64_t *retries,
                        bshm_error *error)
{
    if (!attachment->control)
        return BSHM_NO_PIN;
    bshm_os_mutex_lock(&attachment->mutex);
    int rc = pin_locked(attachment, seen, to_copy, frame, retries, error);
    bshm_os_mutex_unlock(&attachment->mutex);
    return rc;
}

int bshm_attachment_find(bshm_attachment *attachment, uint64_t seen, bshm_frame *frame, uint64_t *retries,
                         bshm_error *error)
{
    for (int attempt = 0; attempt < BSHM_READ_ATTEMPTS; attempt++) {
        uint64_t seq;
        uint64_t latest = bshm_step_load_latest(attachment->header); /* R1 */
        uint64_t n = BSHM_LATEST_SEQUENCE(latest);
        uint32_t slot = BSHM_LATEST_SLOT(latest);
        if (n <= seen)
            return BSHM_NOTHING;
        int rc = check_slot(attachment, latest, error);
        if (rc < 0)
            return rc;
        /* The descriptor may be rewritten while it is copied: check the copy only if seq has not changed. */
        if (bshm_step_load_descriptor(attachment->header, slot, n, &seq, &frame->info) &&
            bshm_step_seq_unchanged(attachment->header, slot, seq)) {
            rc = fill_frame(attachment, slot, seq, frame, error);
            return rc < 0 ? rc : BSHM_FOUND;
        }
        ++*retries;
    }
    return BSHM_NO_PIN;
}

/* ---------------------------------------------------------------- frames of the window */

bshm_span bshm_attachment_span(const bshm_attachment *attachment)
{
    const bshm_identity *identity = &attachment->identity;
    uint64_t last = BSHM_LATEST_SEQUENCE(bshm_step_load_latest(attachment->header)); /* R1 */
    uint64_t first = last > identity->history ? last - identity->history : 1;
    return (bshm_span){first > identity->base_sequence ? first : identity->base_sequence + 1, last};
}

/* R1 for frame `number`: its slot, or slot_count if it is not in the window. */
static uint32_t slot_of_number(const bshm_attachment *attachment, uint64_t number)
{
    uint32_t slots = attachment->identity.slot_count;
    bshm_span span = bshm_attachment_span(attachment);
    return number < span.first || number > span.last ? slots : bshm_step_find_frame(attachment->header, number, slots);
}

/* R4 of frame `number` and no other. */
static bool load_number(const bshm_attachment *attachment, uint32_t slot, uint64_t number, bshm_frame *frame)
{
    uint64_t seq;
    return bshm_step_load_descriptor(attachment->header, slot, number, &seq, &frame->info) && seq == 2 * number;
}

static bshm_lease *lease_of_number(bshm_attachment *attachment, uint32_t slot, uint64_t number)
{
    return find_lease(attachment, BSHM_LATEST(number, slot));
}

/* R0 to R4. BSHM_NO_PIN: try again, and choose the slot again: `latest` may have moved. */
static int pin_number(bshm_attachment *attachment, bshm_lease *lease, uint64_t number, bool to_copy, bshm_frame *frame,
                      bshm_error *error)
{
    bshm_step_fence_token();                            /* R0 */
    uint32_t slot = slot_of_number(attachment, number); /* R1 */
    if (slot == attachment->identity.slot_count)
        return BSHM_NOTHING;
    return pin_slot(attachment, lease, slot, number, true, to_copy, frame, error);
}

static int pin_number_locked(bshm_attachment *attachment, uint64_t number, bool to_copy, bshm_frame *frame,
                             uint64_t *retries, bshm_error *error)
{
    int rc = BSHM_NO_PIN;
    uint32_t slot = slot_of_number(attachment, number);
    if (slot == attachment->identity.slot_count)
        return BSHM_NOTHING;
    bshm_lease *lease = lease_of_number(attachment, slot, number);
    if (lease && load_number(attachment, slot, number, frame)) /* one more frame on a pin that this reader has */
        return fill_pinned(attachment, lease, slot, 2 * number, to_copy, frame, error);
    lease = bshm_token_take(attachment, to_copy);
    if (!lease)
        return BSHM_NO_PIN;
    for (int attempt = 0; rc == BSHM_NO_PIN && attempt < BSHM_READ_ATTEMPTS; attempt++) {
        rc = pin_number(attachment, lease, number, to_copy, frame, error);
        *retries += rc == BSHM_NO_PIN;
    }
    return release_unused(attachment, lease, rc);
}

int bshm_attachment_pin_number(bshm_attachment *attachment, uint64_t number, bool to_copy, bshm_frame *frame,
                               uint64_t *retries, bshm_error *error)
{
    if (!attachment->control)
        return BSHM_NO_PIN;
    bshm_os_mutex_lock(&attachment->mutex);
    int rc = pin_number_locked(attachment, number, to_copy, frame, retries, error);
    bshm_os_mutex_unlock(&attachment->mutex);
    return rc;
}

int bshm_attachment_find_number(bshm_attachment *attachment, uint64_t number, bshm_frame *frame, uint64_t *retries,
                                bshm_error *error)
{
    uint32_t slot = slot_of_number(attachment, number);
    if (slot == attachment->identity.slot_count)
        return BSHM_NOTHING;
    if (!load_number(attachment, slot, number, frame) ||
        !bshm_step_seq_unchanged(attachment->header, slot, 2 * number)) {
        ++*retries;
        return BSHM_NOTHING; /* overwritten in the meantime */
    }
    int rc = fill_frame(attachment, slot, 2 * number, frame, error);
    return rc < 0 ? rc : BSHM_FOUND;
}

static uint64_t distance(int64_t a, int64_t b)
{
    return a > b ? (uint64_t)a - (uint64_t)b : (uint64_t)b - (uint64_t)a;
}

/* What the descriptor says about frame `number` of the window; false: it is gone. */
static bool look_at_number(const bshm_attachment *attachment, uint64_t number, bshm_frame *frame)
{
    uint32_t slot = bshm_step_find_frame(attachment->header, number, attachment->identity.slot_count);
    return slot != attachment->identity.slot_count && load_number(attachment, slot, number, frame) &&
           bshm_step_seq_unchanged(attachment->header, slot, 2 * number);
}

uint64_t bshm_attachment_nearest(const bshm_attachment *attachment, int64_t capture_ns)
{
    uint64_t found = 0;
    int64_t found_ns = 0;
    bool later = true; /* all of them were captured after capture_ns */
    bshm_span span = bshm_attachment_span(attachment);
    for (uint64_t number = span.first; number <= span.last; number++) {
        bshm_frame frame;
        if (!look_at_number(attachment, number, &frame))
            continue;
        int64_t captured_ns = frame.info.capture_ns;
        later = later && captured_ns > capture_ns;
        if (found == 0 || distance(captured_ns, capture_ns) < distance(found_ns, capture_ns)) {
            found = number;
            found_ns = captured_ns;
        }
    }
    return later ? 0 : found;
}

bool bshm_attachment_reaches(const bshm_attachment *attachment, int64_t capture_ns)
{
    bshm_frame frame;
    return look_at_number(attachment, bshm_attachment_span(attachment).last, &frame) &&
           frame.info.capture_ns >= capture_ns;
}

/* ---------------------------------------------------------------- frames in hand */

int bshm_frame_intact(const bshm_frame *frame)
{
    return frame->attachment && bshm_step_seq_unchanged(frame->attachment->header, frame->slot, frame->seq); /* R5 */
}

/* Reads the file, not the mapping: a slot that is not pinned may be punched out by a take-over, or cut off, and
 * touching it in a mapping would then raise SIGBUS. The fence of R5 orders the kernel's loads like any others of this
 * processor. */
static int copy_unpinned(const bshm_frame *frame, uint8_t *to, uint64_t row_bytes)
{
    const bshm_attachment *attachment = frame->attachment;
    const bshm_frame_info *info = &frame->info;
    uint64_t from = slot_offset(attachment, frame->slot);
    if (info->row_stride == row_bytes)
        return bshm_os_read(attachment->data_file, to, (size_t)(row_bytes * info->height), from);
    int rc = 0;
    for (uint32_t row = 0; row < info->height && rc == 0; row++)
        rc =
            bshm_os_read(attachment->data_file, to + row * row_bytes, (size_t)row_bytes, from + row * info->row_stride);
    return rc;
}

int bshm_frame_copy(const bshm_frame *frame, void *destination, uint64_t destination_bytes)
{
    const bshm_frame_info *info = &frame->info;
    uint64_t row_bytes = (uint64_t)info->width * info->channels * info->item_size;
    if (destination_bytes / info->height < row_bytes)
        return BSHM_E_SHAPE;
    if (frame->pinned) {
        bshm_copy_rows(destination, (size_t)row_bytes, frame->pixels, (ptrdiff_t)info->row_stride, (size_t)row_bytes,
                       info->height);
        bshm_fence_seq_cst(); /* the copy may have used non-temporal stores */
    } else if (copy_unpinned(frame, destination, row_bytes) < 0) {
        return BSHM_E_TORN;
    }
    return bshm_frame_intact(frame) ? BSHM_OK : BSHM_E_TORN;
}

void bshm_frame_release(bshm_frame *frame)
{
    bshm_attachment *attachment = frame->attachment;
    if (!attachment)
        return;
    if (attachment->inherited) {
        if (frame->pinned && !frame->to_copy)
            bshm_attachment_drop_inherited_view(attachment);
    } else if (frame->pinned) {
        bshm_os_mutex_lock(&attachment->mutex);
        bshm_lease *lease = &attachment->leases[frame->lease];
        lease->views -= !frame->to_copy;
        if (--lease->frames == 0) {
            bshm_step_unpin(attachment->control, lease->slot, lease->token); /* R6 */
            if (lease->transient)
                bshm_token_release(attachment, lease);
        }
        bshm_os_mutex_unlock(&attachment->mutex);
    }
    frame->attachment = NULL;
    frame->pixels = NULL;
    bshm_attachment_unreference(attachment);
}
