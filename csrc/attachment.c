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
        plat_unmap(attachment->control, BSHM_REGION_BYTES);
        if (attachment->lock_file != PLAT_NO_FILE) {
            for (uint32_t i = 0; i < attachment->lease_count; i++)
                plat_unlock(attachment->lock_file, BSHM_TOKEN_BYTE + attachment->leases[i].token);
            plat_forget_file(attachment->lock_file);
            plat_close(attachment->lock_file);
        }
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
    int rc = plat_open(path, PLAT_READ_WRITE, &attachment->lock_file);
    if (rc < 0) {
        attachment->lock_file = PLAT_NO_FILE;
        if (rc == -EACCES || rc == -EROFS || rc == -EPERM ||
            rc == -ENOENT) /* ENOENT: unlinked since; its frames remain */
            return BSHM_OK;
        return bshm_fail_system(error, rc, "open", path);
    }
    rc = plat_keep_from_children(attachment->lock_file);
    if (rc == 0)
        rc = plat_info_of(attachment->lock_file, &again);
    if (rc < 0)
        return bshm_fail_system(error, rc, "open", path);
    if (!plat_same_object(&again, &attachment->info))
        return 1; /* the name changed hands between the two openings */
    rc = plat_map(attachment->lock_file, attachment->identity.control_offset, BSHM_REGION_BYTES,
                  PLAT_MAP_WRITE | PLAT_MAP_NOT_IN_CHILD, &address);
    if (rc < 0)
        return bshm_fail_system(error, rc, "map", path);
    attachment->control = address;
    return BSHM_OK;
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
    rc = plat_map(attachment->data_file, 0, BSHM_REGION_BYTES, 0, &address);
    if (rc < 0)
        return bshm_fail_system(error, rc, "map", path);
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

/* The kernel would grant a lock that this file has already. */
static bool owns(const bshm_attachment *attachment, uint32_t token)
{
    for (uint32_t i = 0; i < attachment->lease_count; i++)
        if (attachment->leases[i].token == token)
            return true;
    return false;
}

/* R0: a token that pins nothing. Null: none to be had. */
static bshm_lease *free_lease(bshm_attachment *attachment, bool may_take)
{
    for (uint32_t i = 0; i < attachment->lease_count; i++)
        if (attachment->leases[i].frames == 0)
            return &attachment->leases[i];
    uint32_t tokens = attachment->identity.slot_count - 2;
    if (!may_take || attachment->lease_count >= attachment->max_leases || attachment->lease_count >= tokens ||
        plat_coarse_now_ns() < attachment->next_token_search_ns)
        return NULL;
    for (uint32_t token = 0; token < tokens; token++) {
        if (owns(attachment, token) || plat_lock(attachment->lock_file, BSHM_TOKEN_BYTE + token, true) < 0)
            continue;
        bshm_step_clear_token(attachment->control, token, attachment->identity.slot_count);
        bshm_lease *lease = &attachment->leases[attachment->lease_count++];
        *lease = (bshm_lease){.token = token};
        if (attachment->entry)
            bshm_store_relaxed(&attachment->entry->tokens,
                               bshm_load_relaxed(&attachment->entry->tokens) | UINT64_C(1) << token);
        return lease;
    }
    attachment->next_token_search_ns = plat_coarse_now_ns() + TOKEN_SEARCH_NS;
    return NULL;
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
        size_t bytes = (size_t)attachment->identity.slot_stride;
        int rc = plat_map(attachment->data_file,
                          attachment->identity.pixels_offset + slot * attachment->identity.slot_stride, bytes, 0,
                          &attachment->slots[slot]);
        if (rc < 0)
            return bshm_fail_system(error, rc, "map a slot of", attachment->name);
        plat_prefault(attachment->slots[slot], bytes, false);
    }
    *address = attachment->slots[slot];
    return BSHM_OK;
}

/* Everything about the frame but the pin. The descriptor was copied already. */
static int describe_frame(bshm_attachment *attachment, uint32_t slot, uint64_t seq, bshm_frame *frame,
                          bshm_error *error)
{
    int rc = bshm_info_check(&frame->info, attachment->identity.slot_capacity, attachment->name, error);
    if (rc == BSHM_OK)
        rc = slot_address(attachment, slot, &frame->pixels, error);
    if (rc < 0)
        return rc;
    frame->info.sequence = seq >> 1; /* what the protocol says, whatever the descriptor says */
    memcpy(frame->generation, attachment->identity.generation, sizeof frame->generation);
    frame->attachment = attachment;
    frame->seq = seq;
    frame->slot = slot;
    frame->lease = -1;
    frame->pinned = 0;
    bshm_reference_take(&attachment->references);
    return BSHM_OK;
}

/* The newest frame is pinned here already: one more frame on the same pin. */
static bshm_lease *lease_of(bshm_attachment *attachment, uint64_t latest)
{
    for (uint32_t i = 0; i < attachment->lease_count; i++) {
        bshm_lease *lease = &attachment->leases[i];
        if (lease->frames > 0 && lease->slot == BSHM_LATEST_SLOT(latest) &&
            lease->seq == 2 * BSHM_LATEST_SEQUENCE(latest))
            return lease;
    }
    return NULL;
}

static int hold(bshm_attachment *attachment, bshm_lease *lease, uint32_t slot, uint64_t seq, bshm_frame *frame,
                bshm_error *error)
{
    int rc = describe_frame(attachment, slot, seq, frame, error);
    if (rc < 0)
        return rc;
    lease->slot = slot;
    lease->seq = seq;
    lease->frames++;
    frame->lease = (int32_t)(lease - attachment->leases);
    frame->pinned = 1;
    return 1;
}

static int pin_locked(bshm_attachment *attachment, uint64_t seen, bool may_take_token, bshm_frame *frame,
                      uint64_t *retries, bshm_error *error)
{
    for (int attempt = 0; attempt < BSHM_READ_ATTEMPTS; attempt++) {
        uint64_t seq;
        bshm_lease *lease = free_lease(attachment, may_take_token);
        bshm_step_own();                                      /* R0 */
        uint64_t latest = bshm_step_look(attachment->header); /* R1 */
        uint64_t n = BSHM_LATEST_SEQUENCE(latest);
        uint32_t slot = BSHM_LATEST_SLOT(latest);
        if (n <= seen)
            return 0;
        int rc = check_slot(attachment, latest, error);
        if (rc < 0)
            return rc;
        bshm_lease *shared = lease_of(attachment, latest);
        if (shared && bshm_step_describe_read(attachment->header, slot, n, &seq, &frame->info) && seq == shared->seq)
            return hold(attachment, shared, slot, seq, frame, error);
        if (!lease)
            return BSHM_NO_PIN;
        if (bshm_step_pin(attachment->control, slot, lease->token)) {                       /* R2, R3 */
            if (bshm_step_describe_read(attachment->header, slot, n, &seq, &frame->info)) { /* R4 */
                rc = hold(attachment, lease, slot, seq, frame, error);
                if (rc < 0)
                    bshm_step_unpin(attachment->control, slot, lease->token);
                return rc;
            }
            bshm_step_unpin(attachment->control, slot, lease->token);
        }
        ++*retries;
    }
    return BSHM_NO_PIN;
}

int bshm_attachment_pin(bshm_attachment *attachment, uint64_t seen, bool may_take_token, bshm_frame *frame,
                        uint64_t *retries, bshm_error *error)
{
    if (!attachment->control)
        return BSHM_NO_PIN;
    plat_mutex_lock(&attachment->mutex);
    int rc = pin_locked(attachment, seen, may_take_token, frame, retries, error);
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
            plat_mutex_lock(&attachment->mutex);
            rc = describe_frame(attachment, slot, seq, frame, error);
            plat_mutex_unlock(&attachment->mutex);
            return rc < 0 ? rc : 1;
        }
        ++*retries;
    }
    return BSHM_NO_PIN;
}

int bshm_frame_intact(const bshm_frame *frame)
{
    return bshm_step_unchanged(frame->attachment->header, frame->slot, frame->seq); /* R5 */
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
    } else {
        bshm_copy_rows_racing(destination, (size_t)row_bytes, frame->pixels, (size_t)info->row_stride,
                              (size_t)row_bytes, info->height);
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
        if (--lease->frames == 0)
            bshm_step_unpin(attachment->control, lease->slot, lease->token); /* R6 */
        plat_mutex_unlock(&attachment->mutex);
    }
    frame->attachment = NULL;
    frame->pixels = NULL;
    bshm_attachment_unreference(attachment);
}
