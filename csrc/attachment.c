/* attachment.c - one segment as a reader holds it. */
#include "attachment.h"

#include "copy.h"
#include "protocol.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define TOKEN_SEARCH_NS (100 * BSHM_NS_PER_MS) /* a search that found no free token is not repeated before */

/* ---------------------------------------------------------------- opening and closing */

static void store_process_name(bshm_reader_entry *entry)
{
    char name[33] = "";
    plat_process_name(name, sizeof name);
    bshm_text_store(entry->process_name, 4, name);
}

/* A byte of its own among the lease readers', taken exclusively, then shared: a *write* lock in this range would look
 * no different, but reading who is there must not depend on who looks. */
static void show_presence(bshm_attachment *attachment)
{
    for (uint32_t i = 0; i < BSHM_MAX_READERS; i++) {
        if (plat_lock(attachment->lock_file, BSHM_READER_BYTE + i, true) < 0)
            continue;
        bshm_reader_entry *entry = &attachment->control->readers[i];
        bshm_store_relaxed(&entry->pid, plat_process_id());
        bshm_store_relaxed(&entry->kind, BSHM_READER_LEASE);
        bshm_store_relaxed(&entry->attached_wall_ns, (uint64_t)plat_wall_ns());
        bshm_store_relaxed(&entry->frames, 0);
        bshm_store_relaxed(&entry->skipped, 0);
        bshm_store_relaxed(&entry->copies, 0);
        bshm_store_relaxed(&entry->last_sequence, 0);
        bshm_store_relaxed(&entry->tokens, 0);
        store_process_name(entry);
        attachment->entry = entry;
        (void)plat_lock(attachment->lock_file, BSHM_READER_BYTE + i, false);
        return;
    }
}

/* An observer cannot lock exclusively, nor write an entry: a byte beyond the table that nobody has just now. */
static void show_observer_presence(bshm_attachment *attachment)
{
    for (uint64_t byte = BSHM_READER_BYTE + BSHM_MAX_READERS; byte < BSHM_READER_BYTE + 2 * BSHM_MAX_READERS; byte++) {
        uint64_t taken;
        if (plat_next_locked(attachment->data_file, byte, byte, &taken) == 0) {
            (void)plat_lock(attachment->data_file, byte, false);
            return;
        }
    }
}

static void destroy(bshm_attachment *attachment)
{
    bool inherited = bshm_attachment_is_of_parent(attachment);
    plat_unmap((void *)(uintptr_t)attachment->header, BSHM_REGION_BYTES);
    for (uint32_t slot = 0; slot < BSHM_MAX_SLOTS; slot++)
        plat_unmap(attachment->slots[slot], (size_t)attachment->identity.slot_stride);
    plat_close(attachment->data_file);
    if (!inherited) { /* else the child never had the mapping, and its fork handler closed the file */
        if (attachment->entry)
            bshm_store_relaxed(&attachment->entry->pid, 0);
        if (attachment->lock_file != PLAT_NO_FILE) {
            if (attachment->entry)
                plat_unlock(attachment->lock_file,
                            BSHM_READER_BYTE + (uint64_t)(attachment->entry - attachment->control->readers));
            for (uint32_t i = 0; i < BSHM_MAX_SLOTS; i++)
                if (attachment->leases[i].owned)
                    plat_unlock(attachment->lock_file, BSHM_TOKEN_BYTE + attachment->leases[i].token);
            plat_no_fork_begin();
            plat_forget_file(attachment->lock_file);
            plat_close(attachment->lock_file);
            plat_no_fork_end();
        }
        plat_unmap(attachment->control, BSHM_REGION_BYTES);
    }
    plat_mutex_destroy(&attachment->mutex);
    free(attachment);
}

void bshm_attachment_unreference(bshm_attachment *attachment)
{
    if (attachment && bshm_reference_drop(&attachment->references))
        destroy(attachment);
}

bool bshm_attachment_is_of_parent(const bshm_attachment *attachment)
{
    return attachment->process_epoch != plat_process_epoch();
}

/* File (1) and the control region, or neither: then it is an observer. */
static int open_control(bshm_attachment *attachment, const char *path, bshm_error *error)
{
    plat_info again;
    void *address;
    plat_no_fork_begin();
    int rc = plat_open(path, PLAT_READ_WRITE, &attachment->lock_file);
    int kept = rc < 0 ? rc : plat_keep_from_children(attachment->lock_file);
    plat_no_fork_end();
    if (rc < 0) {
        attachment->lock_file = PLAT_NO_FILE;
        if (rc == -EACCES || rc == -EROFS || rc == -EPERM ||
            rc == -ENOENT) /* ENOENT: unlinked since; its frames remain */
            return BSHM_OK;
        return bshm_fail_system(error, rc, "open", path);
    }
    rc = kept;
    if (rc == 0)
        rc = plat_info_of(attachment->lock_file, &again);
    if (rc < 0)
        return bshm_fail_system(error, rc, "open", path);
    if (!plat_same_object(&again, &attachment->info))
        return 1; /* the name changed hands between the two openings */
    rc = bshm_object_map(attachment->lock_file, attachment->identity.control_offset, BSHM_REGION_BYTES,
                         PLAT_MAP_WRITE | PLAT_MAP_NOT_IN_CHILD, attachment->name, &address, error);
    attachment->control = address;
    return rc;
}

/* 1: try again. */
static int open_once(bshm_attachment *attachment, const char *path, const bshm_trusted *trusted, bshm_error *error)
{
    void *address;
    int rc =
        bshm_object_open(path, attachment->name, PLAT_READ, trusted, &attachment->data_file, &attachment->info, error);
    if (rc == BSHM_OK)
        rc = bshm_identity_read(attachment->data_file, &attachment->info, attachment->name, &attachment->identity,
                                error);
    if (rc == BSHM_OK)
        rc = open_control(attachment, path, error);
    if (rc != BSHM_OK)
        return rc;
    rc = bshm_object_map(attachment->data_file, 0, BSHM_REGION_BYTES, 0, attachment->name, &address, error);
    if (rc < 0)
        return rc;
    attachment->header = address;
    if (attachment->control)
        show_presence(attachment);
    else
        show_observer_presence(attachment);
    return BSHM_OK;
}

int bshm_attachment_open(bshm_attachment **opened, const char *path, const char *name, uint32_t max_leases,
                         const bshm_trusted *trusted, bshm_error *error)
{
    int rc;
    do {
        bshm_attachment *attachment = calloc(1, sizeof *attachment);
        if (!attachment)
            return bshm_fail(error, BSHM_E_MEMORY, "no memory to attach to '%s'", name);
        attachment->references = 1;
        attachment->process_epoch = plat_process_epoch();
        attachment->lock_file = PLAT_NO_FILE;
        attachment->data_file = PLAT_NO_FILE;
        attachment->max_leases = max_leases;
        plat_mutex_init(&attachment->mutex);
        memcpy(attachment->name, name, strlen(name) + 1); /* fits: bshm_object_path checked */
        rc = open_once(attachment, path, trusted, error);
        if (rc == BSHM_OK)
            *opened = attachment;
        else
            bshm_attachment_unreference(attachment);
    } while (rc == 1);
    return rc;
}

/* ---------------------------------------------------------------- tokens */

static uint32_t token_count(const bshm_attachment *attachment)
{
    return attachment->identity.slot_count - 2;
}

/* The kernel would grant a lock that this file has already. */
static bool owns(const bshm_attachment *attachment, uint32_t token)
{
    for (uint32_t i = 0; i < BSHM_MAX_SLOTS; i++)
        if (attachment->leases[i].owned && attachment->leases[i].token == token)
            return true;
    return false;
}

static void show_token(bshm_attachment *attachment, uint32_t token, bool ours)
{
    bshm_reader_entry *entry = attachment->entry;
    if (!entry)
        return;
    uint64_t others = bshm_load_relaxed(&entry->tokens) & ~(UINT64_C(1) << token);
    bshm_store_relaxed(&entry->tokens, others | (uint64_t)ours << token);
}

/* R0, for a new token: owned, then cleared. Null: all are taken, which is not asked again for a while. */
static bshm_lease *take_token(bshm_attachment *attachment, bool passing)
{
    bshm_lease *place = attachment->leases;
    while (place->owned) /* an empty place is there: there are more places than tokens */
        place++;
    if (plat_coarse_now_ns() < attachment->next_token_search_ns)
        return NULL;
    for (uint32_t token = 0; token < token_count(attachment); token++) {
        if (owns(attachment, token) || plat_lock(attachment->lock_file, BSHM_TOKEN_BYTE + token, true) < 0)
            continue;
        bshm_step_clear_token(attachment->control, token, attachment->identity.slot_count);
        *place = (bshm_lease){.owned = true, .passing = passing, .token = token};
        show_token(attachment, token, true);
        return place;
    }
    attachment->next_token_search_ns = plat_coarse_now_ns() + TOKEN_SEARCH_NS;
    return NULL;
}

static void give_up_token(bshm_attachment *attachment, bshm_lease *lease)
{
    show_token(attachment, lease->token, false);
    plat_unlock(attachment->lock_file, BSHM_TOKEN_BYTE + lease->token);
    lease->owned = false;
}

/* R0: a token that pins nothing. One that will be kept if there may be another; else, or for a copy, a passing one, so
 * that copies are as fast and as safe as leases without taking leases from others for long. */
static bshm_lease *free_lease(bshm_attachment *attachment, bool to_copy)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < BSHM_MAX_SLOTS; i++) {
        bshm_lease *lease = &attachment->leases[i];
        if (lease->owned && !lease->passing && lease->frames == 0)
            return lease;
        kept += lease->owned && !lease->passing;
    }
    return take_token(attachment, to_copy || kept >= attachment->max_leases);
}

/* ---------------------------------------------------------------- frames */

static int check_slot(const bshm_attachment *attachment, uint64_t latest, bshm_error *error)
{
    if (BSHM_LATEST_SLOT(latest) < attachment->identity.slot_count)
        return BSHM_OK;
    return bshm_fail(error, BSHM_E_FORMAT, "segment '%s' is corrupt: its newest frame is said to be in slot %u of %u",
                     attachment->name, BSHM_LATEST_SLOT(latest), attachment->identity.slot_count);
}

/* The address of a slot that was published, mapped at its first use. */
static int slot_address(bshm_attachment *attachment, uint32_t slot, const void **address, bshm_error *error)
{
    if (!attachment->slots[slot]) {
        uint64_t bytes = attachment->identity.slot_stride;
        int rc = bshm_object_map(attachment->data_file, attachment->identity.pixels_offset + slot * bytes, bytes, 0,
                                 attachment->name, &attachment->slots[slot], error);
        if (rc < 0)
            return rc;
    }
    *address = attachment->slots[slot];
    return BSHM_OK;
}

/* Everything about the frame but the pin. The descriptor was copied already. */
static int describe_frame(bshm_attachment *attachment, uint32_t slot, uint64_t seq, bshm_frame *frame,
                          bshm_error *error)
{
    int rc = bshm_info_check(&frame->info, attachment->identity.slot_capacity, attachment->name, error);
    if (rc < 0)
        return rc;
    frame->info.sequence = seq >> 1; /* what the protocol says, whatever the descriptor says */
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

/* The newest frame is pinned here already: one more frame on the same pin. */
static bshm_lease *lease_of(bshm_attachment *attachment, uint64_t latest)
{
    for (uint32_t i = 0; i < BSHM_MAX_SLOTS; i++) {
        bshm_lease *lease = &attachment->leases[i];
        if (lease->frames > 0 && lease->slot == BSHM_LATEST_SLOT(latest) &&
            lease->seq == 2 * BSHM_LATEST_SEQUENCE(latest))
            return lease;
    }
    return NULL;
}

static int hold(bshm_attachment *attachment, bshm_lease *lease, uint32_t slot, uint64_t seq, bool to_copy,
                bshm_frame *frame, bshm_error *error)
{
    const void *pixels;
    int rc = slot_address(attachment, slot, &pixels, error);
    if (rc == BSHM_OK)
        rc = describe_frame(attachment, slot, seq, frame, error);
    if (rc < 0)
        return rc;
    lease->slot = slot;
    lease->seq = seq;
    lease->frames++;
    frame->pixels = pixels;
    frame->lease = (int32_t)(lease - attachment->leases);
    frame->pinned = 1;
    frame->to_copy = to_copy || lease->passing;
    return 1;
}

/* R1 to R4 with a token in hand. BSHM_NO_PIN: try again. */
static int pin_with(bshm_attachment *attachment, bshm_lease *lease, uint64_t seen, bool to_copy, bshm_frame *frame,
                    bshm_error *error)
{
    uint64_t seq;
    bshm_step_own();                                      /* R0 */
    uint64_t latest = bshm_step_look(attachment->header); /* R1 */
    uint64_t n = BSHM_LATEST_SEQUENCE(latest);
    uint32_t slot = BSHM_LATEST_SLOT(latest);
    if (n <= seen)
        return 0;
    int rc = check_slot(attachment, latest, error);
    if (rc < 0)
        return rc;
    if (!bshm_step_pin(attachment->control, slot, lease->token)) /* R2, R3 */
        return BSHM_NO_PIN;
    rc = BSHM_NO_PIN;
    if (bshm_step_describe_read(attachment->header, slot, n, &seq, &frame->info)) /* R4 */
        rc = hold(attachment, lease, slot, seq, to_copy, frame, error);
    if (rc != 1)
        bshm_step_unpin(attachment->control, slot, lease->token);
    return rc;
}

/* On a pin that this reader has already, which needs no token. BSHM_NO_PIN: there is none. */
static int share_pin(bshm_attachment *attachment, uint64_t seen, bool to_copy, bshm_frame *frame, bshm_error *error)
{
    uint64_t seq;
    uint64_t latest = bshm_step_look(attachment->header);
    uint64_t n = BSHM_LATEST_SEQUENCE(latest);
    bshm_lease *lease = n > seen ? lease_of(attachment, latest) : NULL;
    if (!lease || !bshm_step_describe_read(attachment->header, lease->slot, n, &seq, &frame->info) || seq != lease->seq)
        return BSHM_NO_PIN;
    return hold(attachment, lease, lease->slot, seq, to_copy, frame, error);
}

static int pin_locked(bshm_attachment *attachment, uint64_t seen, bool to_copy, bshm_frame *frame, uint64_t *retries,
                      bshm_error *error)
{
    int rc = share_pin(attachment, seen, to_copy, frame, error);
    if (rc != BSHM_NO_PIN)
        return rc;
    bshm_lease *lease = free_lease(attachment, to_copy);
    if (!lease)
        return BSHM_NO_PIN;
    for (int attempt = 0; attempt < BSHM_READ_ATTEMPTS; attempt++) {
        rc = pin_with(attachment, lease, seen, to_copy, frame, error);
        if (rc != BSHM_NO_PIN)
            break;
        ++*retries;
    }
    if (rc != 1 && lease->passing)
        give_up_token(attachment, lease);
    return rc;
}

int bshm_attachment_pin(bshm_attachment *attachment, uint64_t seen, bool to_copy, bshm_frame *frame, uint64_t *retries,
                        bshm_error *error)
{
    if (!attachment->control)
        return BSHM_NO_PIN;
    plat_mutex_lock(&attachment->mutex);
    int rc = pin_locked(attachment, seen, to_copy, frame, retries, error);
    plat_mutex_unlock(&attachment->mutex);
    return rc;
}

int bshm_attachment_find(bshm_attachment *attachment, uint64_t seen, bshm_frame *frame, uint64_t *retries,
                         bshm_error *error)
{
    for (int attempt = 0; attempt < BSHM_READ_ATTEMPTS; attempt++) {
        uint64_t seq;
        uint64_t latest = bshm_step_look(attachment->header); /* R1 */
        uint64_t n = BSHM_LATEST_SEQUENCE(latest);
        uint32_t slot = BSHM_LATEST_SLOT(latest);
        if (n <= seen)
            return 0;
        int rc = check_slot(attachment, latest, error);
        if (rc < 0)
            return rc;
        /* The descriptor may be rewritten while it is copied: only one that was not is worth checking. */
        if (bshm_step_describe_read(attachment->header, slot, n, &seq, &frame->info) &&
            bshm_step_unchanged(attachment->header, slot, seq)) {
            rc = describe_frame(attachment, slot, seq, frame, error);
            return rc < 0 ? rc : 1;
        }
        ++*retries;
    }
    return BSHM_NO_PIN;
}

int bshm_frame_intact(const bshm_frame *frame)
{
    return frame->attachment && bshm_step_unchanged(frame->attachment->header, frame->slot, frame->seq); /* R5 */
}

/* Through the file, not the mapping: what nobody pins may be punched out by a takeover, or truncated, and touching it
 * then would be SIGBUS. The kernel's loads come before the fence of R5 like any others of this processor. */
static int copy_unpinned(const bshm_frame *frame, uint8_t *to, uint64_t row_bytes)
{
    const bshm_attachment *attachment = frame->attachment;
    const bshm_frame_info *info = &frame->info;
    uint64_t from = attachment->identity.pixels_offset + frame->slot * attachment->identity.slot_stride;
    if (info->row_stride == row_bytes)
        return plat_read(attachment->data_file, to, (size_t)(row_bytes * info->height), from);
    int rc = 0;
    for (uint32_t row = 0; row < info->height && rc == 0; row++)
        rc = plat_read(attachment->data_file, to + row * row_bytes, (size_t)row_bytes, from + row * info->row_stride);
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
    if (frame->pinned && !bshm_attachment_is_of_parent(attachment)) {
        plat_mutex_lock(&attachment->mutex);
        bshm_lease *lease = &attachment->leases[frame->lease];
        if (--lease->frames == 0) {
            bshm_step_unpin(attachment->control, lease->slot, lease->token); /* R6 */
            if (lease->passing)
                give_up_token(attachment, lease);
        }
        plat_mutex_unlock(&attachment->mutex);
    }
    frame->attachment = NULL;
    frame->pixels = NULL;
    bshm_attachment_unreference(attachment);
}
