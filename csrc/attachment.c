/* attachment.c - one segment as a reader holds it: files, mappings, lease tokens. */
#include "attachment.h"

#include "protocol.h"
#include "statistics.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define TOKEN_SEARCH_NS (100 * BSHM_NS_PER_MS) /* pause after a search that found no free token */

/* ---------------------------------------------------------------- opening and closing */

static void store_process_name(bshm_reader_entry *entry)
{
    char name[33] = "";
    bshm_os_process_name(name, sizeof name);
    bshm_text_store(entry->process_name, 4, name);
}

/* Takes a write lock, which a process that may only read the object cannot have: it can keep readers from having an
 * entry, but it cannot pass for one. */
static void lock_reader_entry(bshm_attachment *attachment)
{
    for (uint32_t i = 0; i < BSHM_MAX_READERS; i++) {
        if (bshm_os_lock(attachment->lock_file, BSHM_READER_BYTE + i, true) < 0)
            continue;
        bshm_reader_entry *entry = &attachment->control->readers[i];
        bshm_store_relaxed(&entry->pid, bshm_os_process_id());
        bshm_store_relaxed(&entry->kind, BSHM_READER_LEASE);
        bshm_store_relaxed(&entry->attached_wall_ns, (uint64_t)bshm_os_wall_ns());
        bshm_store_relaxed(&entry->frames, 0);
        bshm_store_relaxed(&entry->skipped, 0);
        bshm_store_relaxed(&entry->copies, 0);
        bshm_store_relaxed(&entry->last_sequence, 0);
        bshm_store_relaxed(&entry->tokens, 0);
        store_process_name(entry);
        attachment->entry = entry;
        return;
    }
}

/* An observer can neither lock for writing nor fill an entry: it read-locks a byte beyond the table that no other has.
 * If two try the same byte at the same time, both release it, and each goes on in its own steps. */
static void lock_observer_byte(bshm_attachment *attachment)
{
    uint8_t random[2] = {0, 0};
    (void)bshm_os_random(random, sizeof random);
    for (uint32_t i = 0; i < BSHM_MAX_READERS; i++) {
        uint32_t place = (random[0] + i * (random[1] | 1u)) % BSHM_MAX_READERS; /* odd steps: each place once */
        if (bshm_os_lock_alone(attachment->data_file, BSHM_READER_BYTE + BSHM_MAX_READERS + place) == 0)
            return;
    }
}

static void blank_mappings(bshm_attachment *attachment)
{
    bshm_os_blank(attachment->header_mapping, BSHM_REGION_BYTES, 0);
    for (uint32_t slot = 0; slot < BSHM_MAX_SLOTS; slot++)
        bshm_os_blank(attachment->slots[slot], (size_t)attachment->identity.slot_stride, 0);
}

/* The files and the control region belong to the parent, and so does the memory, unless the child inherited a view of
 * it. Frames that are being copied do not count: the thread that copies them does not exist here. */
static bool forget_attachment_in_child(bshm_os_fork_member *member)
{
    bshm_attachment *attachment = (bshm_attachment *)member;
    if (attachment->inherited) /* the parent is a child itself */
        return true;
    attachment->inherited = true;
    bshm_os_close(attachment->lock_file); /* not unlocked: that would be the parent's lock */
    bshm_os_close(attachment->data_file);
    attachment->lock_file = BSHM_OS_NO_FILE;
    attachment->data_file = BSHM_OS_NO_FILE;
    attachment->control = NULL; /* it was never mapped here */
    attachment->entry = NULL;
    for (uint32_t i = 0; i < BSHM_MAX_SLOTS; i++)
        attachment->views_in_child += attachment->leases[i].views;
    if (attachment->views_in_child == 0)
        blank_mappings(attachment);
    return true;
}

void bshm_attachment_drop_inherited_view(bshm_attachment *attachment)
{
    if (bshm_reference_drop(&attachment->views_in_child))
        blank_mappings(attachment);
}

static void give_up_locks(bshm_attachment *attachment)
{
    if (attachment->entry) {
        bshm_store_relaxed(&attachment->entry->pid, 0);
        bshm_os_unlock(attachment->lock_file,
                       BSHM_READER_BYTE + (uint64_t)(attachment->entry - attachment->control->readers));
    }
    for (uint32_t i = 0; i < BSHM_MAX_SLOTS; i++)
        if (attachment->leases[i].owned)
            bshm_os_unlock(attachment->lock_file, BSHM_TOKEN_BYTE + attachment->leases[i].token);
}

void bshm_attachment_unreference(bshm_attachment *attachment)
{
    if (!attachment || !bshm_reference_drop(&attachment->references))
        return;
    if (attachment->lock_file != BSHM_OS_NO_FILE) {
        give_up_locks(attachment);
        bshm_object_close(&attachment->lock_file);
    }
    bshm_object_close(&attachment->data_file);
    bshm_os_unmap(attachment->control, BSHM_REGION_BYTES);
    attachment->control = NULL;
    if (attachment->address_references > 1)
        blank_mappings(attachment);
    bshm_addresses_release(attachment);
}

bshm_attachment *bshm_addresses_hold(bshm_attachment *attachment)
{
    if (attachment)
        bshm_reference_take(&attachment->address_references);
    return attachment;
}

void bshm_addresses_release(bshm_attachment *attachment)
{
    if (!attachment || !bshm_reference_drop(&attachment->address_references))
        return;
    bshm_os_block_fork(); /* a child would keep the mappings forever, or blank whatever is mapped there next */
    bshm_os_unmap(attachment->header_mapping, BSHM_REGION_BYTES);
    attachment->header_mapping = NULL;
    for (uint32_t slot = 0; slot < BSHM_MAX_SLOTS; slot++) {
        bshm_os_unmap(attachment->slots[slot], (size_t)attachment->identity.slot_stride);
        attachment->slots[slot] = NULL;
    }
    bshm_os_allow_fork();
    bshm_os_leave_fork_list(&attachment->fork_member);
    bshm_os_mutex_destroy(&attachment->mutex);
    free(attachment);
}

/* Opens lock_file and maps the control region. If that is not permitted, it does neither: the reader is an observer. */
static int open_control(bshm_attachment *attachment, const char *path, bshm_error *error)
{
    bshm_os_info again;
    void *address;
    bshm_os_block_fork();
    int rc = bshm_os_open(path, BSHM_OS_READ_WRITE, &attachment->lock_file);
    bshm_os_allow_fork();
    if (rc < 0) {
        if (rc == -EACCES || rc == -EROFS || rc == -EPERM ||
            rc == -ENOENT) /* ENOENT: the name was removed; its frames can still be read */
            return BSHM_OK;
        return bshm_fail_system(error, rc, "open", path);
    }
    rc = bshm_os_info_of(attachment->lock_file, &again);
    if (rc < 0)
        return bshm_fail_system(error, rc, "open", path);
    if (!bshm_os_same_object(&again, &attachment->info))
        return BSHM_AGAIN; /* the name was replaced between the two openings */
    rc = bshm_object_map(attachment->lock_file, attachment->identity.control_offset, BSHM_REGION_BYTES,
                         BSHM_OS_MAP_WRITE | BSHM_OS_MAP_NOT_IN_CHILD, attachment->name, &address, error);
    attachment->control = address;
    return rc;
}

/* BSHM_AGAIN: the name was replaced in between. */
static int open_once(bshm_attachment *attachment, const char *path, const bshm_trusted *trusted, bshm_error *error)
{
    int rc = bshm_object_open(path, attachment->name, BSHM_OS_READ, trusted, &attachment->data_file, &attachment->info,
                              error);
    if (rc == BSHM_OK)
        rc = bshm_identity_read(attachment->data_file, &attachment->info, attachment->name, &attachment->identity,
                                error);
    if (rc == BSHM_OK)
        rc = open_control(attachment, path, error);
    if (rc != BSHM_OK)
        return rc;
    rc = bshm_object_map(attachment->data_file, 0, BSHM_REGION_BYTES, 0, attachment->name, &attachment->header_mapping,
                         error);
    if (rc < 0)
        return rc;
    attachment->header = attachment->header_mapping;
    if (attachment->control)
        lock_reader_entry(attachment);
    else
        lock_observer_byte(attachment);
    return BSHM_OK;
}

int bshm_attachment_open(bshm_attachment **opened, const char *path, const char *name, uint32_t max_leases,
                         const bshm_trusted *trusted, bshm_error *error)
{
    int rc;
    do {
        bshm_attachment *attachment = calloc(1, sizeof *attachment);
        if (!attachment)
            return bshm_fail(error, BSHM_E_MEMORY, "out of memory: cannot attach to '%s'", name);
        attachment->references = 1;
        attachment->address_references = 1;
        attachment->lock_file = BSHM_OS_NO_FILE;
        attachment->data_file = BSHM_OS_NO_FILE;
        attachment->max_leases = max_leases;
        bshm_os_mutex_init(&attachment->mutex);
        memcpy(attachment->name, name, strlen(name) + 1); /* fits: bshm_object_path checked */
        bshm_os_join_fork_list(&attachment->fork_member, forget_attachment_in_child);
        rc = open_once(attachment, path, trusted, error);
        if (rc == BSHM_OK)
            *opened = attachment;
        else
            bshm_attachment_unreference(attachment);
    } while (rc == BSHM_AGAIN);
    return rc;
}

/* ---------------------------------------------------------------- tokens */

/* Checked first, because the kernel grants a lock again to a file that already has it. */
static bool has_token(const bshm_attachment *attachment, uint32_t token)
{
    for (uint32_t i = 0; i < BSHM_MAX_SLOTS; i++)
        if (attachment->leases[i].owned && attachment->leases[i].token == token)
            return true;
    return false;
}

static void record_token(bshm_attachment *attachment, uint32_t token, bool ours)
{
    bshm_reader_entry *entry = attachment->entry;
    if (!entry)
        return;
    uint64_t others = bshm_load_relaxed(&entry->tokens) & ~(UINT64_C(1) << token);
    bshm_store_relaxed(&entry->tokens, others | (uint64_t)ours << token);
}

/* R0 for a new token: lock it, then clear it. Null: all are taken; then there is no search for a while. */
static bshm_lease *lock_new_token(bshm_attachment *attachment, bool transient)
{
    bshm_lease *place = attachment->leases;
    while (place->owned) /* ends: there are more entries than tokens */
        place++;
    if (bshm_os_coarse_now_ns() < attachment->next_token_search_ns)
        return NULL;
    for (uint32_t token = 0; token < attachment->identity.token_count; token++) {
        if (has_token(attachment, token) || bshm_os_lock(attachment->lock_file, BSHM_TOKEN_BYTE + token, true) < 0)
            continue;
        bshm_step_clear_token(attachment->control, token, attachment->identity.slot_count);
        *place = (bshm_lease){.owned = true, .transient = transient, .token = token};
        record_token(attachment, token, true);
        return place;
    }
    attachment->next_token_search_ns = bshm_os_coarse_now_ns() + TOKEN_SEARCH_NS;
    return NULL;
}

void bshm_token_release(bshm_attachment *attachment, bshm_lease *lease)
{
    record_token(attachment, lease->token, false);
    bshm_os_unlock(attachment->lock_file, BSHM_TOKEN_BYTE + lease->token);
    lease->owned = false;
}

bshm_lease *bshm_token_take(bshm_attachment *attachment, bool to_copy)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < BSHM_MAX_SLOTS; i++) {
        bshm_lease *lease = &attachment->leases[i];
        if (lease->owned && !lease->transient && lease->frames == 0)
            return lease;
        kept += lease->owned && !lease->transient;
    }
    return lock_new_token(attachment, to_copy || kept >= attachment->max_leases);
}
