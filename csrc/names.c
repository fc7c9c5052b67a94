/* names.c - names: which are valid, how one is taken over, and how what dead writers left is removed. */
#include "names.h"

#include "protocol.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define NAME_LIMIT    64
#define LOCK_RETRY_NS (2 * BSHM_NS_PER_MS)
/* A creator takes microseconds from open to lock; ten seconds spare one that was stopped in between. */
#define TEMPORARY_SPARED_NS (INT64_C(10000) * BSHM_NS_PER_MS)

/* ---------------------------------------------------------------- names and paths */

const char *bshm_object_directory(void)
{
    return bshm_os_object_directory();
}

static bool allowed_in_name(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '_' ||
           c == '-';
}

static int path_of_name(const char *name, char *path, size_t path_bytes, bshm_error *error)
{
    size_t length = strlen(name);
    if (length == 0 || length > NAME_LIMIT)
        return bshm_fail(error, BSHM_E_NAME, "name '%.80s' has %zu characters: expected 1 to %d", name, length,
                         NAME_LIMIT);
    for (size_t i = 0; i < length; i++)
        if (!allowed_in_name(name[i]))
            return bshm_fail(error, BSHM_E_NAME,
                             "name '%s' is not allowed: use letters, digits, '.', '_' and '-', or give the path of a "
                             "file, with a slash in it",
                             name);
    if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
        return bshm_fail(error, BSHM_E_NAME, "name '%s' is a directory: choose another", name);
    int length_of_path = snprintf(path, path_bytes, "%s/%s", bshm_os_object_directory(), name);
    if (length_of_path < 0 || (size_t)length_of_path >= path_bytes)
        return bshm_fail(error, BSHM_E_NAME, "the path of name '%s' is too long: use a shorter name", name);
    return BSHM_OK;
}

int bshm_object_path(const char *name, char *path, size_t path_bytes, bshm_error *error)
{
    const char *last_slash = bshm_os_last_separator(name);
    if (!last_slash)
        return path_of_name(name, path, path_bytes, error);
    if (last_slash == name)
        return bshm_fail(
            error, BSHM_E_NAME,
            "name '%.80s' begins with a slash, as for shm_open: leave the slash out ('%.80s'), or give a path "
            "with a directory in it",
            name, name + 1);
    if (last_slash[1] == '\0' || strcmp(last_slash + 1, ".") == 0 || strcmp(last_slash + 1, "..") == 0)
        return bshm_fail(error, BSHM_E_NAME, "path '%.200s' names a directory: add a file name", name);
    /* Absolute, so that it leads to the same file after a change of directory. */
    int rc = bshm_os_absolute_path(name, path, path_bytes);
    if (rc == -EINVAL) /* Windows */
        return bshm_fail(error, BSHM_E_NAME, "path '%.200s' is not valid UTF-8", name);
    if (rc < 0 && rc != -ENAMETOOLONG)
        return bshm_fail(error, BSHM_E_NAME,
                         "path '%.200s' is relative, but the current directory is gone: give an absolute path", name);
    /* Leave room for the temporary next to it. The name is kept too, and on Windows it may be the longer one. */
    size_t longer = rc == 0 && strlen(path) > strlen(name) ? strlen(path) : strlen(name);
    if (rc < 0 || longer + 32 > path_bytes || longer + 32 > BSHM_OS_PATH_BYTES)
        return bshm_fail(error, BSHM_E_NAME, "path '%.80s...' has %zu characters, which is too long: use a shorter one",
                         name, strlen(name));
    return BSHM_OK;
}

int bshm_temporary_path(const char *path, char *temporary, bshm_error *error)
{
    const char *last_slash = bshm_os_last_separator(path); /* not null: bshm_object_path checked it */
    uint64_t random;
    int rc = bshm_os_random(&random, sizeof random);
    if (rc < 0)
        return bshm_fail_system(error, rc, "read", "/dev/urandom");
    int length = snprintf(temporary, BSHM_OS_PATH_BYTES, "%.*s/.bshm-%016llx~", (int)(last_slash - path), path,
                          (unsigned long long)random);
    if (length < 0 || length >= BSHM_OS_PATH_BYTES)
        return bshm_fail(error, BSHM_E_NAME, "path '%.80s...' is too long: use a shorter one", path);
    return BSHM_OK;
}

bool bshm_is_temporary(const char *file_name)
{
    return strncmp(file_name, ".bshm-", 6) == 0 && strlen(file_name) == 6 + 16 + 1 && file_name[6 + 16] == '~';
}

/* ---------------------------------------------------------------- the object that has the name */

static int fail_writer_exists(bshm_os_file file, const bshm_identity *identity, const char *name, bshm_error *error)
{
    if (bshm_os_is_locked(file, BSHM_WRITER_BYTE) == 0)
        return bshm_fail(error, BSHM_E_EXISTS,
                         "the writer of '%s' is dead, but another process holds a read lock on its writer byte, which "
                         "prevents a takeover: find that process in /proc/locks, or choose another name",
                         name);
    return bshm_fail(error, BSHM_E_EXISTS,
                     "'%s' belongs to a living writer (process %u): stop it, or choose another name", name,
                     identity->writer_pid);
}

/* No number above this one was ever published. A writer killed between W8 and W10 may have shown a frame through its
 * descriptor while `latest` still has the previous one (tests/core/model/sequence.pml). */
static uint64_t higher_sequence(uint64_t a, uint64_t b)
{
    return b > a && b <= BSHM_MAX_SEQUENCE ? b : a; /* above the maximum: damage, which a successor must not inherit */
}

static uint64_t highest_sequence(const bshm_header *header, const bshm_identity *identity)
{
    /* Its writer may itself have taken over, and have published nothing yet. */
    uint64_t highest = higher_sequence(0, identity->base_sequence);
    highest = higher_sequence(highest, BSHM_LATEST_SEQUENCE(bshm_load_relaxed(&header->publication.latest)));
    for (uint32_t slot = 0; slot < identity->slot_count; slot++)
        highest = higher_sequence(highest, (bshm_load_relaxed(&header->descriptors[slot].seq) + 1) >> 1);
    return highest;
}

/* Its writer is dead and this process holds its lock, so its content can no longer change. */
static int read_predecessor(bshm_predecessor *predecessor, const char *name, bshm_error *error)
{
    static const size_t bytes = sizeof(bshm_header);
    bshm_error ignored;
    predecessor->same_abi =
        bshm_identity_check(&predecessor->identity, predecessor->info.size_bytes, name, &ignored) == BSHM_OK;
    if (!predecessor->same_abi)
        return BSHM_OK; /* a segment of another version, or damaged: it is replaced, but its content is unknown */
    void *address;
    int rc = bshm_object_map(predecessor->held.file, 0, bytes, BSHM_OS_MAP_NOT_IN_CHILD, name, &address, error);
    if (rc == BSHM_E_FORMAT)
        predecessor->same_abi = false; /* no memory behind it: it is replaced like one of another version */
    if (rc < 0)
        return rc == BSHM_E_FORMAT ? BSHM_OK : rc;
    predecessor->sequence = highest_sequence(address, &predecessor->identity);
    bshm_os_unmap(address, bytes);
    return BSHM_OK;
}

/* BSHM_OK: locked, and the name still leads to it. BSHM_AGAIN: the name leads elsewhere now. */
static int lock_predecessor(const char *path, const char *name, int64_t timeout_ns, bshm_predecessor *predecessor,
                            bshm_error *error)
{
    int64_t until = bshm_os_now_ns() + timeout_ns;
    bshm_os_info now;
    for (;;) {
        int rc = bshm_os_lock(predecessor->held.file, BSHM_WRITER_BYTE, true);
        if (bshm_os_info_at(path, &now) < 0 || !bshm_os_same_object(&now, &predecessor->info))
            return BSHM_AGAIN;
        if (rc == 0)
            return BSHM_OK;
        if (rc != -EAGAIN)
            return bshm_fail_system(error, rc, "lock", path);
        if (bshm_os_now_ns() >= until)
            return fail_writer_exists(predecessor->held.file, &predecessor->identity, name, error);
        bshm_os_sleep(LOCK_RETRY_NS);
    }
}

int bshm_predecessor_take(const char *path, const char *name, const bshm_os_info *own, const bshm_trusted *trusted,
                          int64_t timeout_ns, bshm_predecessor *predecessor, bshm_error *error)
{
    for (;;) {
        *predecessor = (bshm_predecessor){.held.file = BSHM_OS_NO_FILE};
        int rc = bshm_os_info_at(path, &predecessor->info);
        if (rc == -ENOENT || rc == -ENOTDIR) /* ENOTDIR: bshm_object_open reports that as not found, too */
            return BSHM_OK;
        if (rc == 0 && own && bshm_os_same_object(own, &predecessor->info)) {
            predecessor->own = true;
            return BSHM_OK;
        }
        rc = bshm_brief_open(&predecessor->held, path, name, BSHM_OS_READ_WRITE, trusted, &predecessor->info, error);
        if (rc == BSHM_E_NOT_FOUND)
            continue; /* removed just now: look again */
        if (rc < 0)
            return rc;
        rc = bshm_os_read(predecessor->held.file, &predecessor->identity, sizeof predecessor->identity, 0);
        if (rc < 0 || !bshm_has_magic(&predecessor->identity))
            rc =
                bshm_fail(error, BSHM_E_FORMAT,
                          "'%s' is not a billiards_shm segment: %s (%llu bytes) does not begin with \"%s\" and is left "
                          "alone; choose another name, or remove it",
                          name, path, (unsigned long long)predecessor->info.size_bytes, BSHM_MAGIC);
        else
            rc = lock_predecessor(path, name, timeout_ns, predecessor, error);
        if (rc == BSHM_OK)
            rc = read_predecessor(predecessor, name, error);
        if (rc == BSHM_OK)
            return BSHM_OK;
        bshm_predecessor_drop(predecessor);
        if (rc < 0)
            return rc;
    }
}

void bshm_predecessor_drop(bshm_predecessor *predecessor)
{
    if (predecessor->held.file == BSHM_OS_NO_FILE)
        return;
    bshm_os_unlock(predecessor->held.file, BSHM_WRITER_BYTE); /* also where a forked child has not closed it yet */
    bshm_brief_close(&predecessor->held);
}

/* Maps header and control region of a predecessor whose identity is valid. */
static int map_predecessor(const bshm_predecessor *predecessor, bshm_header **header)
{
    void *address;
    int rc = bshm_object_map(predecessor->held.file, 0, 2 * BSHM_REGION_BYTES,
                             BSHM_OS_MAP_WRITE | BSHM_OS_MAP_NOT_IN_CHILD, "", &address, NULL);
    *header = address;
    return rc;
}

void bshm_predecessor_reclaim(bshm_predecessor *predecessor)
{
    bshm_header *header;
    if (predecessor->held.file == BSHM_OS_NO_FILE || !predecessor->same_abi ||
        map_predecessor(predecessor, &header) < 0)
        return;
    bshm_control *control = (bshm_control *)((uint8_t *)header + predecessor->identity.control_offset);
    uint64_t latest = bshm_load_relaxed(&header->publication.latest);
    bshm_clear_dead_tokens(predecessor->held.file, control, &predecessor->identity);
    for (uint32_t slot = 0; slot < predecessor->identity.slot_count; slot++) {
        if (latest != 0 && BSHM_LATEST_SLOT(latest) == slot)
            continue;
        if (!bshm_step_claim_slot(control, slot, predecessor->identity.token_count))
            continue;
        /* W4 with the slot's old number: odd, so that the hole is not read as a frame; no number is used up. */
        uint64_t shown = (bshm_load_relaxed(&header->descriptors[slot].seq) + 1) >> 1;
        if (shown > 0)
            bshm_step_begin_write(header, slot, shown);
        (void)bshm_os_punch(predecessor->held.file,
                            predecessor->identity.pixels_offset + slot * predecessor->identity.slot_stride,
                            predecessor->identity.slot_stride);
    }
    bshm_os_unmap(header, 2 * BSHM_REGION_BYTES);
}

void bshm_predecessor_retire(bshm_predecessor *predecessor)
{
    bshm_header *header;
    if (predecessor->held.file != BSHM_OS_NO_FILE && predecessor->same_abi &&
        map_predecessor(predecessor, &header) == 0) {
        bshm_step_set_state(header, BSHM_STATE_RETIRED);
        bshm_os_wake_all(&header->publication.notify.shared);
        bshm_os_unmap(header, 2 * BSHM_REGION_BYTES);
    }
    bshm_predecessor_drop(predecessor);
}

/* ---------------------------------------------------------------- removing what the dead left */

void bshm_clear_dead_tokens(bshm_os_file file, bshm_control *control, const bshm_identity *identity)
{
    for (uint32_t token = 0; token < identity->token_count; token++) {
        if (bshm_os_lock(file, BSHM_TOKEN_BYTE + token, true) < 0)
            continue;
        bshm_step_clear_token(control, token, identity->slot_count);
        bshm_os_unlock(file, BSHM_TOKEN_BYTE + token);
    }
}

int bshm_remove_stale(const char *name, const bshm_owners *owners, bshm_error *error)
{
    char path[BSHM_OS_PATH_BYTES];
    bshm_trusted trusted;
    bshm_predecessor predecessor;
    int rc = bshm_object_path(name, path, sizeof path, error);
    if (rc == BSHM_OK)
        rc = bshm_trusted_copy(&trusted, owners, error);
    if (rc == BSHM_OK)
        rc = bshm_predecessor_take(path, name, NULL, &trusted, 0, &predecessor, error);
    if (rc == BSHM_E_EXISTS)
        return BSHM_NOTHING;
    if (rc < 0)
        return rc;
    if (predecessor.held.file == BSHM_OS_NO_FILE)
        return BSHM_NOTHING;
    rc = bshm_os_unlink(path);
    bshm_predecessor_drop(&predecessor);
    return rc < 0 ? bshm_fail_system(error, rc, "remove", path) : BSHM_REMOVED;
}

int bshm_remove_stale_temporary(const char *path, bshm_error *error)
{
    const char *last_slash = bshm_os_last_separator(path);
    bshm_brief_file file;
    bshm_os_info info;
    if (!bshm_is_temporary(last_slash ? last_slash + 1 : path))
        return bshm_fail(error, BSHM_E_NAME, "'%s' is not a temporary: expected a name like .bshm-0123456789abcdef~",
                         path);
    if (bshm_os_info_at(path, &info) < 0 || !info.regular ||
        (info.owner_uid != bshm_os_user_id() && bshm_os_user_id() != 0) ||
        info.modified_wall_ns > bshm_os_wall_ns() - TEMPORARY_SPARED_NS)
        return BSHM_NOTHING;
    bshm_trusted owner = {.uids = {info.owner_uid}, .count = 1}; /* root also removes those of other users */
    if (bshm_brief_open(&file, path, path, BSHM_OS_READ_WRITE, &owner, &info, NULL) < 0)
        return BSHM_NOTHING;
    bool removed = bshm_os_lock(file.file, BSHM_WRITER_BYTE, true) == 0 && bshm_os_unlink(path) == 0;
    bshm_brief_close(&file);
    return removed ? BSHM_REMOVED : BSHM_NOTHING;
}
