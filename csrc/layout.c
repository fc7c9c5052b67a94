/* layout.c - the layout of a segment and how it is validated. */
#include "layout.h"

#include "ordering.h"

#include <errno.h>
#include <string.h>

/* ---------------------------------------------------------------- owners */

int bshm_trusted_copy(bshm_trusted *trusted, const bshm_owners *owners, bshm_error *error)
{
    size_t limit = sizeof trusted->uids / sizeof trusted->uids[0];
    trusted->count = owners ? owners->count : 0;
    if (trusted->count > limit)
        return bshm_fail(error, BSHM_E_ARGUMENT, "%zu trusted owners are too many: expected at most %zu",
                         trusted->count, limit);
    if (trusted->count > 0)
        memcpy(trusted->uids, owners->uids, trusted->count * sizeof trusted->uids[0]);
    return BSHM_OK;
}

bool bshm_trusts(const bshm_trusted *trusted, uint32_t uid)
{
    if (uid == 0 || uid == bshm_os_user_id())
        return true;
    for (size_t i = 0; i < trusted->count; i++)
        if (trusted->uids[i] == uid)
            return true;
    return false;
}

/* ---------------------------------------------------------------- identity */

static uint64_t round_up_to_region(uint64_t bytes)
{
    return (bytes + BSHM_REGION_BYTES - 1) / BSHM_REGION_BYTES * BSHM_REGION_BYTES;
}

/* FNV-1a, 64 bit: Fowler, Noll, Vo, https://datatracker.ietf.org/doc/html/draft-eastlake-fnv */
static uint64_t checksum_of(const bshm_identity *identity)
{
    const uint8_t *bytes = (const uint8_t *)identity;
    uint64_t hash = UINT64_C(0xcbf29ce484222325);
    for (size_t i = 0; i < offsetof(bshm_identity, checksum); i++)
        hash = (hash ^ bytes[i]) * UINT64_C(0x100000001b3);
    return hash;
}

int bshm_identity_plan(bshm_identity *identity, uint64_t capacity, uint32_t slots, uint32_t history, bshm_error *error)
{
    /* 2^40: far above any image, and 62 such slots still fit the maximum size of a file. */
    if (capacity == 0 || capacity > UINT64_C(1) << 40)
        return bshm_fail(error, BSHM_E_SHAPE, "a frame of %llu bytes: expected 1 byte to 1 TiB",
                         (unsigned long long)capacity);
    if (slots < BSHM_MIN_SLOTS || slots > BSHM_MAX_SLOTS)
        return bshm_fail(error, BSHM_E_ARGUMENT, "slots=%u: expected %u to %u", slots, BSHM_MIN_SLOTS, BSHM_MAX_SLOTS);
    if (history > BSHM_MAX_SLOTS - slots)
        return bshm_fail(error, BSHM_E_ARGUMENT, "history=%u: expected at most %u with slots=%u", history,
                         BSHM_MAX_SLOTS - slots, slots);
    *identity = (bshm_identity){
        .abi_major = BSHM_ABI_MAJOR,
        .abi_minor = BSHM_ABI_MINOR,
        .header_bytes = BSHM_REGION_BYTES,
        .byte_order = BSHM_BYTE_ORDER,
        .slot_count = slots + history,
        .token_count = slots - 2,
        .history = history,
        .slot_stride = round_up_to_region(capacity),
        .slot_capacity = capacity,
        .control_offset = BSHM_REGION_BYTES,
        .pixels_offset = 2 * (uint64_t)BSHM_REGION_BYTES,
        .created_wall_ns = bshm_os_wall_ns(),
        .created_ns = bshm_os_now_ns(),
        .writer_pid = bshm_os_process_id(),
        .descriptor_offset = BSHM_DESCRIPTOR_OFFSET,
    };
    memcpy(identity->magic, BSHM_MAGIC, sizeof identity->magic);
    identity->total_bytes = bshm_backed_bytes(identity, identity->slot_count);
    int rc = bshm_os_random(identity->generation, sizeof identity->generation);
    return rc < 0 ? bshm_fail_system(error, rc, "read", "/dev/urandom") : BSHM_OK;
}

void bshm_identity_seal(bshm_identity *identity)
{
    identity->checksum = checksum_of(identity);
}

bool bshm_has_magic(const bshm_identity *identity)
{
    return memcmp(identity->magic, BSHM_MAGIC, sizeof identity->magic) == 0;
}

uint64_t bshm_backed_bytes(const bshm_identity *identity, uint64_t slots)
{
    return identity->pixels_offset + slots * identity->slot_stride;
}

int bshm_identity_check(const bshm_identity *identity, uint64_t object_bytes, const char *name, bshm_error *error)
{
    if (!bshm_has_magic(identity))
        return bshm_fail(error, BSHM_E_FORMAT,
                         "'%s' is not a billiards_shm segment: it does not begin with \"%s\"; choose another name",
                         name, BSHM_MAGIC);
    if (identity->abi_major != BSHM_ABI_MAJOR)
        return bshm_fail(error, BSHM_E_FORMAT,
                         "segment '%s' has ABI %u.%u, expected %u.x: use the same version for writer and readers", name,
                         identity->abi_major, identity->abi_minor, BSHM_ABI_MAJOR);
    if (identity->byte_order != BSHM_BYTE_ORDER)
        return bshm_fail(error, BSHM_E_FORMAT,
                         "segment '%s' has byte order mark 0x%08x, expected 0x%08x: it is from another kind of machine",
                         name, identity->byte_order, BSHM_BYTE_ORDER);
    if (identity->checksum != checksum_of(identity))
        return bshm_fail(error, BSHM_E_FORMAT,
                         "segment '%s' is corrupt: its header has checksum %016llx, expected %016llx", name,
                         (unsigned long long)identity->checksum, (unsigned long long)checksum_of(identity));
    if (identity->slot_count < BSHM_MIN_SLOTS || identity->slot_count > BSHM_MAX_SLOTS)
        return bshm_fail(error, BSHM_E_FORMAT, "segment '%s' is corrupt: it has %u slots, expected %u to %u", name,
                         identity->slot_count, BSHM_MIN_SLOTS, BSHM_MAX_SLOTS);
    /* The checksum detects accidents, not forgery: every number is checked as if there were no checksum. In 64 bits,
     * where the sum does not wrap. */
    if (identity->token_count == 0 || identity->slot_count != UINT64_C(2) + identity->token_count + identity->history)
        return bshm_fail(error, BSHM_E_FORMAT,
                         "segment '%s' is corrupt: %u slots for %u tokens and a history of %u frames, expected %llu",
                         name, identity->slot_count, identity->token_count, identity->history,
                         2ULL + identity->token_count + identity->history);
    if (identity->base_sequence > BSHM_MAX_SEQUENCE)
        return bshm_fail(error, BSHM_E_FORMAT,
                         "segment '%s' is corrupt: it counts on from frame %llu, expected at most %llu", name,
                         (unsigned long long)identity->base_sequence, (unsigned long long)BSHM_MAX_SEQUENCE);
    if (identity->header_bytes != BSHM_REGION_BYTES)
        return bshm_fail(error, BSHM_E_FORMAT, "segment '%s' is corrupt: its header has %u bytes, expected %u", name,
                         identity->header_bytes, BSHM_REGION_BYTES);
    if (identity->descriptor_offset != BSHM_DESCRIPTOR_OFFSET || identity->control_offset != BSHM_REGION_BYTES ||
        identity->pixels_offset != 2 * (uint64_t)BSHM_REGION_BYTES)
        return bshm_fail(error, BSHM_E_FORMAT,
                         "segment '%s' is corrupt: its regions are at %u, %llu and %llu, expected %u, %u and %u", name,
                         identity->descriptor_offset, (unsigned long long)identity->control_offset,
                         (unsigned long long)identity->pixels_offset, BSHM_DESCRIPTOR_OFFSET, BSHM_REGION_BYTES,
                         2 * BSHM_REGION_BYTES);
    if (identity->slot_capacity == 0 || identity->slot_capacity > identity->slot_stride ||
        identity->slot_stride % BSHM_REGION_BYTES != 0 || identity->slot_stride > UINT64_C(1) << 41)
        return bshm_fail(error, BSHM_E_FORMAT, "segment '%s' is corrupt: it has slots of %llu bytes, %llu bytes apart",
                         name, (unsigned long long)identity->slot_capacity, (unsigned long long)identity->slot_stride);
    uint64_t needed =
        bshm_backed_bytes(identity, identity->slot_count); /* < 2^47: no overflow after the checks above */
    if (identity->total_bytes != needed || object_bytes < needed)
        return bshm_fail(error, BSHM_E_FORMAT,
                         "segment '%s' is corrupt: it has %llu bytes and says %llu, but %u slots need %llu", name,
                         (unsigned long long)object_bytes, (unsigned long long)identity->total_bytes,
                         identity->slot_count, (unsigned long long)needed);
    return BSHM_OK;
}

int bshm_identity_read(bshm_os_file file, const bshm_os_info *info, const char *name, bshm_identity *identity,
                       bshm_error *error)
{
    int rc = bshm_os_read(file, identity, sizeof *identity, 0);
    if (rc == -ENODATA)
        return bshm_fail(
            error, BSHM_E_FORMAT,
            "'%s' is not a billiards_shm segment: it has %llu bytes, expected at least %u; choose another name", name,
            (unsigned long long)info->size_bytes, BSHM_REGION_BYTES);
    if (rc < 0)
        return bshm_fail_system(error, rc, "read", name);
    return bshm_identity_check(identity, info->size_bytes, name, error);
}

/* ---------------------------------------------------------------- objects */

int bshm_object_open(const char *path, const char *name, enum bshm_os_access access, const bshm_trusted *trusted,
                     bshm_os_file *file, bshm_os_info *info, bshm_error *error)
{
    const char *kind;
    /* Look before opening: opening a device can have effects, and opening a FIFO for reading wakes its writer. */
    int rc = bshm_os_info_at(path, info);
    if (rc == -ENOENT || rc == -ENOTDIR)
        return bshm_fail(error, BSHM_E_NOT_FOUND, "no segment '%s' (%s): is its writer running?", name, path);
    if (rc < 0)
        return bshm_fail_system(error, rc, "stat", path);
    if (!info->regular)
        return bshm_fail(error, BSHM_E_FORMAT, "'%s' is not a billiards_shm segment: %s is %s; choose another name",
                         name, path, info->symbolic_link ? "a symbolic link" : "not a regular file");
    bshm_os_block_fork();
    rc = bshm_os_open(path, access, file);
    bshm_os_allow_fork();
    if (rc == -ENOENT)
        return bshm_fail(error, BSHM_E_NOT_FOUND, "no segment '%s' (%s): is its writer running?", name, path);
    if (rc == -ELOOP)
        return bshm_fail(error, BSHM_E_FORMAT, "'%s' is not a billiards_shm segment: %s is a symbolic link", name,
                         path);
    if (rc < 0)
        return bshm_fail_system(error, rc, "open", path);
    rc = bshm_os_info_of(*file, info);
    if (rc < 0)
        rc = bshm_fail_system(error, rc, "stat", path);
    else if (!info->regular)
        rc = bshm_fail(error, BSHM_E_FORMAT, "'%s' is not a billiards_shm segment: %s is not a regular file", name,
                       path);
    else if (!bshm_trusts(trusted, info->owner_uid))
        rc = bshm_fail(
            error, BSHM_E_PERMISSION,
            "segment '%s' belongs to user %u, expected you (%u) or root: if you trust that user, list them in "
            "trusted_owners",
            name, info->owner_uid, bshm_os_user_id());
    else if (bshm_os_check_file_system(*file, &kind) == -EOPNOTSUPP)
        rc = bshm_fail(error, BSHM_E_NAME,
                       "'%s' is on %s, where locks do not end with their process: use a path on a tmpfs", name, kind);
    if (rc < 0)
        bshm_object_close(file);
    return rc;
}

void bshm_object_close(bshm_os_file *file)
{
    bshm_os_block_fork();
    bshm_os_close(*file);
    *file = BSHM_OS_NO_FILE;
    bshm_os_allow_fork();
}

/* The thread whose stack it is on does not exist in the child. */
static bool close_brief_in_child(bshm_os_fork_member *member)
{
    bshm_brief_file *brief = (bshm_brief_file *)member;
    bshm_os_close(brief->file);
    return false;
}

int bshm_brief_open(bshm_brief_file *brief, const char *path, const char *name, enum bshm_os_access access,
                    const bshm_trusted *trusted, bshm_os_info *info, bshm_error *error)
{
    brief->file = BSHM_OS_NO_FILE;
    bshm_os_join_fork_list(&brief->fork_member, close_brief_in_child);
    int rc = bshm_object_open(path, name, access, trusted, &brief->file, info, error);
    if (rc < 0)
        bshm_os_leave_fork_list(&brief->fork_member);
    return rc;
}

void bshm_brief_close(bshm_brief_file *brief)
{
    bshm_object_close(&brief->file);
    bshm_os_leave_fork_list(&brief->fork_member);
}

int bshm_object_map(bshm_os_file file, uint64_t offset, uint64_t bytes, unsigned flags, const char *name,
                    void **address, bshm_error *error)
{
    *address = NULL;
    if (bytes > SIZE_MAX / 2)
        return bshm_fail(error, BSHM_E_MEMORY, "cannot map %llu bytes of segment '%s': too many for this process",
                         (unsigned long long)bytes, name);
    int rc = bshm_os_map(file, offset, (size_t)bytes, flags, address);
    if (rc < 0)
        return bshm_fail_system(error, rc, "map", name);
    if (bshm_os_prefault(*address, (size_t)bytes, flags & BSHM_OS_MAP_WRITE) == 0)
        return BSHM_OK;
    bshm_os_block_fork();
    bshm_os_unmap(*address, (size_t)bytes);
    *address = NULL;
    bshm_os_allow_fork();
    return bshm_fail(error, BSHM_E_FORMAT,
                     "segment '%s' is corrupt: there is no memory behind its %llu bytes at %llu, and none is free",
                     name, (unsigned long long)bytes, (unsigned long long)offset);
}

/* ---------------------------------------------------------------- frames */

static bool item_exists(uint32_t kind, uint32_t item_size)
{
    switch (kind) {
    case 'b':
        return item_size == 1;
    case 'i':
    case 'u':
        return item_size == 1 || item_size == 2 || item_size == 4 || item_size == 8;
    case 'f':
        return item_size == 2 || item_size == 4 || item_size == 8;
    case 'c':
        return item_size == 8 || item_size == 16;
    default:
        return false;
    }
}

int bshm_info_plan(bshm_frame_info *info, bshm_error *error)
{
    if (info->ndim == 2)
        info->channels = 1;
    if ((info->ndim != 2 && info->ndim != 3) || info->width == 0 || info->height == 0 || info->channels == 0)
        return bshm_fail(error, BSHM_E_SHAPE,
                         "a frame of %u dimensions, height %u, width %u, channels %u: expected (height, width) or "
                         "(height, width, channels), each at least 1",
                         info->ndim, info->height, info->width, info->channels);
    if (!item_exists(info->kind, info->item_size))
        return bshm_fail(error, BSHM_E_SHAPE,
                         "items of kind '%c' with %u bytes: expected bool, int, uint, float or complex of a "
                         "fixed size",
                         (int)(info->kind & 127), info->item_size);
    /* Each factor is below 2^32 and the item below 2^5: a product of two cannot overflow, the third is checked. */
    uint64_t pixel = (uint64_t)info->channels * info->item_size;
    if (pixel > UINT64_C(1) << 31 || pixel * info->width > UINT64_C(1) << 40 ||
        pixel * info->width > (UINT64_C(1) << 40) / info->height)
        return bshm_fail(error, BSHM_E_SHAPE, "a frame of %u x %u x %u items of %u bytes: expected at most 1 TiB",
                         info->height, info->width, info->channels, info->item_size);
    info->row_stride = pixel * info->width;
    info->payload_bytes = info->row_stride * info->height;
    return BSHM_OK;
}

int bshm_info_check(const bshm_frame_info *info, uint64_t slot_capacity, const char *name, bshm_error *error)
{
    bshm_frame_info planned = *info;
    if (bshm_info_plan(&planned, NULL) < 0 || planned.channels != info->channels ||
        info->row_stride < planned.row_stride || info->row_stride > slot_capacity ||
        info->row_stride > slot_capacity / info->height || info->payload_bytes > slot_capacity ||
        info->payload_bytes < info->row_stride * (info->height - 1) + planned.row_stride)
        return bshm_fail(
            error, BSHM_E_FORMAT,
            "segment '%s' is corrupt: a frame of %u x %u x %u items of %u bytes, rows %llu bytes apart, %llu bytes "
            "in all, does not fit a slot of %llu bytes",
            name, info->height, info->width, info->channels, info->item_size, (unsigned long long)info->row_stride,
            (unsigned long long)info->payload_bytes, (unsigned long long)slot_capacity);
    return BSHM_OK;
}
