/* segment.c - one segment as its writer holds it. */
#include "segment.h"

#include "protocol.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A writer that replaces its segment waits under its mutex, so it waits no longer than `clean` takes. */
#define OWN_LOCK_TIMEOUT_NS (20 * BSHM_NS_PER_MS)

#define CREATION_ATTEMPTS   8 /* how often a cleaner may take the temporary away */

static int fail_full(bshm_error *error, int rc, uint64_t needed, const char *what, bshm_os_file file, const char *path)
{
    if (rc != -ENOSPC && rc != -EDQUOT && rc != -EFBIG)
        return bshm_fail_system(error, rc, "allocate memory for", path);
    if (rc == -EFBIG)
        bshm_fail(error, BSHM_E_FULL,
                  "%s may not become as large as the segment: raise the limit on file sizes (ulimit -f), use a "
                  "smaller frame, or fewer slots",
                  path);
    else
        bshm_fail(error, BSHM_E_FULL,
                  "%s needs %llu bytes (%.1f MB) of shared memory, %.1f MB are free for %s: make it larger (docker run "
                  "--shm-size=..., mount -o remount,size=...), use a smaller frame, or give a path on another tmpfs",
                  what, (unsigned long long)needed, (double)needed / 1e6, (double)bshm_os_free_bytes(file) / 1e6, path);
    if (error)
        error->system_errno = rc == -EFBIG ? EFBIG : ENOSPC;
    return BSHM_E_FULL;
}

/* ---------------------------------------------------------------- slots */

static int map_slot(bshm_segment *segment, uint32_t slot, const char *path, bshm_error *error)
{
    size_t bytes = (size_t)segment->identity.slot_stride;
    int rc = bshm_os_map(segment->data_file, segment->identity.pixels_offset + slot * segment->identity.slot_stride,
                         bytes, BSHM_OS_MAP_WRITE, &segment->slots[slot]);
    if (rc < 0)
        return bshm_fail_system(error, rc, "map", path);
    bshm_os_prefault(segment->slots[slot], bytes, true);
    return BSHM_OK;
}

int bshm_segment_grow(bshm_segment *segment, const char *path, bshm_error *error)
{
    uint32_t slot = segment->backed;
    uint64_t bytes = segment->identity.slot_stride;
    uint64_t offset = segment->identity.pixels_offset + slot * bytes;
    int rc = bshm_os_allocate(segment->data_file, offset, bytes);
    if (rc < 0)
        return fail_full(error, rc, bytes, "one more slot", segment->data_file, path);
    rc = map_slot(segment, slot, path, error);
    if (rc < 0) {
        (void)bshm_os_punch(segment->data_file, offset, bytes);
        return rc;
    }
    segment->backed++;
    bshm_store_relaxed(&segment->header->statistics.backed_slots, segment->backed);
    return BSHM_OK;
}

/* ---------------------------------------------------------------- ending */

static void close_files(bshm_segment *segment)
{
    bshm_os_unmap(segment->header, BSHM_REGION_BYTES);
    bshm_os_unmap(segment->control, BSHM_REGION_BYTES);
    segment->header = NULL;
    segment->control = NULL;
    if (segment->lock_file != BSHM_OS_NO_FILE)
        bshm_os_unlock(segment->lock_file, BSHM_WRITER_BYTE);
    bshm_object_close(&segment->lock_file);
    bshm_object_close(&segment->data_file);
}

/* All of it belongs to the parent. Whatever the child draws into a lent slot stays in the child. */
static bool forget_segment_in_child(bshm_os_fork_member *member)
{
    bshm_segment *segment = (bshm_segment *)member;
    bshm_os_close(segment->lock_file); /* not unlocked: that would be the parent's lock */
    bshm_os_close(segment->data_file);
    segment->lock_file = BSHM_OS_NO_FILE;
    segment->data_file = BSHM_OS_NO_FILE;
    segment->header = NULL; /* they were never mapped here */
    segment->control = NULL;
    for (uint32_t slot = 0; slot < BSHM_MAX_SLOTS; slot++)
        bshm_os_blank(segment->slots[slot], (size_t)segment->identity.slot_stride, BSHM_OS_MAP_WRITE);
    return true;
}

void bshm_segment_unreference(bshm_segment *segment)
{
    if (!segment || !bshm_reference_drop(&segment->references))
        return;
    bshm_os_block_fork(); /* a child would keep the mappings forever, or blank whatever is mapped there next */
    for (uint32_t slot = 0; slot < BSHM_MAX_SLOTS; slot++) {
        bshm_os_unmap(segment->slots[slot], (size_t)segment->identity.slot_stride);
        segment->slots[slot] = NULL;
    }
    bshm_os_allow_fork();
    bshm_os_leave_fork_list(&segment->fork_member);
    free(segment);
}

bool bshm_segment_has_name(const bshm_segment *segment, const char *path)
{
    bshm_os_info now;
    return bshm_os_info_at(path, &now) == 0 && bshm_os_same_object(&now, &segment->info);
}

void bshm_segment_end(bshm_segment *segment, uint32_t state, const char *path)
{
    bshm_step_set_state(segment->header, state);
    bshm_os_wake_all(&segment->header->publication.notify.shared);
    if (state == BSHM_STATE_CLOSED && bshm_segment_has_name(segment, path))
        (void)bshm_os_unlink(path); /* under the lock, so the name was not taken over since the check */
    close_files(segment);
    bshm_segment_unreference(segment);
}

/* ---------------------------------------------------------------- creation */

/* The state of one bshm_segment_create, over all its attempts. */
typedef struct creation_job {
    const char *path, *name;
    uint32_t mode, group;
    int32_t set_group;
    const bshm_trusted *trusted;
    const bshm_segment *own;      /* the writer's own segment that is replaced, or null */
    bshm_predecessor predecessor; /* kept from one attempt to the next */
    uint64_t sequence;            /* the first frame gets the next number */
    uint64_t series;              /* of the count that continues; 0: a new one */
    int64_t timeout_ns;           /* how long to wait for the lock of another object under the name */
    bshm_error *error;
} creation_job;

static const bshm_os_info *own_info(const creation_job *job)
{
    return job->own ? &job->own->info : NULL;
}

static int map_regions(bshm_segment *segment, const char *path, bshm_error *error)
{
    void *header = NULL;
    void *control = NULL;
    unsigned flags = BSHM_OS_MAP_WRITE | BSHM_OS_MAP_NOT_IN_CHILD;
    int rc = bshm_os_map(segment->lock_file, 0, BSHM_REGION_BYTES, flags, &header);
    if (rc == 0)
        rc = bshm_os_map(segment->lock_file, segment->identity.control_offset, BSHM_REGION_BYTES, flags, &control);
    segment->header = header;
    segment->control = control;
    if (rc < 0)
        return bshm_fail_system(error, rc, "map", path);
    bshm_os_prefault(header, BSHM_REGION_BYTES, true);
    bshm_os_prefault(control, BSHM_REGION_BYTES, true);
    return BSHM_OK;
}

/* The second open file description; checks that it is the same object, since the path is not locked. BSHM_AGAIN: the
 * temporary is gone. */
static int open_again(bshm_segment *segment, const char *temporary, bshm_error *error)
{
    bshm_os_info second;
    bshm_os_block_fork();
    int rc = bshm_os_open(temporary, BSHM_OS_READ_WRITE, &segment->data_file);
    bshm_os_allow_fork();
    if (rc == -ENOENT)
        return BSHM_AGAIN;
    if (rc == 0)
        rc = bshm_os_info_of(segment->data_file, &second);
    if (rc < 0)
        return bshm_fail_system(error, rc, "open", temporary);
    if (!bshm_os_same_object(&second, &segment->info))
        return bshm_fail(error, BSHM_E_SYSTEM, "'%s' was replaced by another file while it was created: try again",
                         temporary);
    return BSHM_OK;
}

/* The group first, because the mode's bits are meant for that group only. */
static int set_group_and_mode(const creation_job *job, const bshm_segment *segment, const char *temporary)
{
    int rc = job->set_group ? bshm_os_set_group(segment->lock_file, job->group) : 0;
    if (rc == -EPERM)
        return bshm_fail(job->error, BSHM_E_PERMISSION, "cannot give '%s' to group %u: expected one of your own groups",
                         job->path, job->group);
    if (rc < 0)
        return bshm_fail_system(job->error, rc, "set the group of", temporary);
    rc = bshm_os_set_mode(segment->lock_file, job->mode);
    return rc < 0 ? bshm_fail_system(job->error, rc, "set the mode of", temporary) : BSHM_OK;
}

/* Everything except the name. BSHM_AGAIN: a cleaner that found the temporary old and not yet locked has removed it, or
 * is about to. */
static int build_temporary(const creation_job *job, bshm_segment *segment, const char *temporary)
{
    const char *kind;
    const char *path = job->path;
    bshm_error *error = job->error;
    char what[64];
    uint32_t initial_slots = BSHM_INITIAL_SLOTS + segment->identity.history;
    uint64_t initial = bshm_backed_bytes(&segment->identity, initial_slots);
    (void)snprintf(what, sizeof what, "the segment, with %u slots,", initial_slots);
    bshm_os_block_fork();
    int rc = bshm_os_create(temporary, &segment->lock_file);
    bshm_os_allow_fork();
    if (rc == -ENOSPC)
        return bshm_fail(
            error, BSHM_E_FULL,
            "'%s' cannot be created: its file system has no inodes left. Remove files there, or mount it with "
            "more (mount -o remount,nr_inodes=...)",
            path);
    if (rc == -EDQUOT) /* not even an inode was left */
        return fail_full(error, rc, initial, what, BSHM_OS_NO_FILE, path);
    if (rc == -ENOENT || rc == -ENOTDIR)
        return bshm_fail(error, BSHM_E_NOT_FOUND, "there is no directory for '%s': create it first", path);
    if (rc < 0)
        return bshm_fail_system(error, rc, "create", temporary);
    rc = bshm_os_lock(segment->lock_file, BSHM_WRITER_BYTE, true);
    if (rc == -EAGAIN)
        return BSHM_AGAIN;
    if (rc == 0)
        rc = bshm_os_info_of(segment->lock_file, &segment->info);
    if (rc < 0)
        return bshm_fail_system(error, rc, "lock", temporary);
    if (bshm_os_check_file_system(segment->lock_file, &kind) == -EOPNOTSUPP)
        return bshm_fail(error, BSHM_E_NAME,
                         "%s is on %s, where locks do not end with their process: use a path on a tmpfs", path, kind);
    rc = open_again(segment, temporary, error);
    if (rc != BSHM_OK)
        return rc;
    /* after the lock: before it, other users could have put a read lock in its way */
    rc = set_group_and_mode(job, segment, temporary);
    if (rc < 0)
        return rc;
    rc = bshm_os_resize(segment->lock_file, segment->identity.total_bytes);
    if (rc == 0)
        rc = bshm_os_allocate(segment->lock_file, 0, initial);
    if (rc < 0)
        return fail_full(error, rc, initial, what, segment->lock_file, path);
    rc = map_regions(segment, path, error);
    for (uint32_t slot = 0; rc == BSHM_OK && slot < initial_slots; slot++) {
        rc = map_slot(segment, slot, path, error);
        segment->backed += rc == BSHM_OK;
    }
    if (rc < 0)
        return rc;
    bshm_store_relaxed(&segment->header->statistics.backed_slots, segment->backed);
    bshm_step_set_state(segment->header, BSHM_STATE_LIVE);
    return BSHM_OK;
}

static void write_identity(bshm_segment *segment, uint64_t base_sequence, uint64_t series)
{
    segment->identity.base_sequence = base_sequence;
    segment->identity.series = series;
    bshm_identity_seal(&segment->identity);
    segment->header->identity = segment->identity; /* plain stores: no other process sees it before the rename */
}

/* Gives the temporary the name. BSHM_AGAIN: the temporary is gone, as above. */
static int publish_name(creation_job *job, bshm_segment *segment, const char *temporary)
{
    bshm_predecessor *predecessor = &job->predecessor;
    if (job->series == 0)
        memcpy(&job->series, segment->identity.generation, sizeof job->series); /* random enough */
    for (;;) {
        bool replace = predecessor->own || predecessor->held.file != BSHM_OS_NO_FILE;
        if (predecessor->sequence > job->sequence) {
            job->sequence = predecessor->sequence;
            job->series = predecessor->identity.series;
        }
        write_identity(segment, job->sequence, job->series);
        int rc = bshm_os_rename(temporary, job->path, replace);
        if (rc == 0) {
            bshm_predecessor_retire(predecessor);
            return BSHM_OK;
        }
        if (rc == -ENOENT)
            return BSHM_AGAIN;
        if (rc != -EEXIST)
            return bshm_fail_system(job->error, rc, "rename the new segment to", job->path);
        if (replace) /* where a rename takes two steps, and another process took the name in between */
            bshm_predecessor_retire(predecessor);
        rc = bshm_predecessor_take(job->path, job->name, own_info(job), job->trusted, job->timeout_ns, predecessor,
                                   job->error);
        if (rc < 0)
            return rc;
    }
}

static bshm_segment *new_segment(const bshm_identity *identity)
{
    bshm_segment *segment = calloc(1, sizeof *segment);
    if (segment) {
        segment->references = 1;
        segment->identity = *identity;
        segment->lock_file = BSHM_OS_NO_FILE;
        segment->data_file = BSHM_OS_NO_FILE;
        bshm_os_join_fork_list(&segment->fork_member, forget_segment_in_child);
    }
    return segment;
}

/* One attempt. */
static int try_create(creation_job *job, const bshm_identity *identity, bshm_segment **created)
{
    char temporary[BSHM_OS_PATH_BYTES];
    int rc = bshm_temporary_path(job->path, temporary, job->error);
    if (rc < 0)
        return rc;
    bshm_segment *segment = new_segment(identity);
    if (!segment)
        return bshm_fail(job->error, BSHM_E_MEMORY, "out of memory: cannot create '%s'", job->name);
    rc = build_temporary(job, segment, temporary);
    if (rc == BSHM_OK)
        rc = publish_name(job, segment, temporary);
    if (rc == BSHM_OK) {
        *created = segment;
        return BSHM_OK;
    }
    if (segment->lock_file != BSHM_OS_NO_FILE)
        (void)bshm_os_unlink(temporary);
    close_files(segment);
    bshm_segment_unreference(segment);
    return rc;
}

/* Called after a creation that found no room: makes room in the segment of a dead writer, if there is one. */
static int reclaim_from_predecessor(creation_job *job)
{
    bshm_error full = *job->error;
    int rc = BSHM_OK;
    if (job->predecessor.held.file == BSHM_OS_NO_FILE) /* otherwise an attempt before this one took it */
        rc = bshm_predecessor_take(job->path, job->name, own_info(job), job->trusted, job->timeout_ns,
                                   &job->predecessor, job->error);
    if (rc < 0)
        return rc;
    if (job->predecessor.held.file == BSHM_OS_NO_FILE) {
        *job->error = full;
        return full.code;
    }
    bshm_predecessor_reclaim(&job->predecessor);
    return BSHM_AGAIN;
}

int bshm_segment_create(bshm_segment **segment, const char *path, const char *name, const bshm_writer_options *options,
                        const bshm_trusted *trusted, const bshm_segment *own, uint64_t *sequence, bshm_error *error)
{
    bshm_identity identity;
    bshm_error local;
    creation_job job = {.path = path,
                        .name = name,
                        .mode = options->mode,
                        .group = options->group,
                        .set_group = options->set_group,
                        .trusted = trusted,
                        .own = own,
                        .timeout_ns = own ? OWN_LOCK_TIMEOUT_NS : BSHM_LOCK_TIMEOUT_NS,
                        .sequence = *sequence,
                        .series = own ? own->identity.series : 0,
                        .error = error ? error : &local};
    /* Look for a living writer or a foreign file before taking any memory; the rename checks again. */
    int rc = bshm_predecessor_take(path, name, own_info(&job), trusted, job.timeout_ns, &job.predecessor, job.error);
    if (rc < 0)
        return rc;
    bshm_predecessor_drop(&job.predecessor);
    job.predecessor.own = false;
    job.predecessor.sequence = 0;
    bool reclaimed = false;
    rc = BSHM_AGAIN;
    for (int attempt = 0; rc == BSHM_AGAIN && attempt < CREATION_ATTEMPTS; attempt++) {
        rc = bshm_identity_plan(&identity, options->slot_capacity, options->slots, options->history, job.error);
        if (rc == BSHM_OK)
            rc = try_create(&job, &identity, segment);
        if (rc == BSHM_E_FULL && !reclaimed) {
            reclaimed = true;
            rc = reclaim_from_predecessor(&job);
        }
    }
    bshm_predecessor_drop(&job.predecessor);
    *sequence = job.sequence;
    if (rc == BSHM_AGAIN)
        rc = bshm_fail(
            job.error, BSHM_E_SYSTEM,
            "the temporary of '%s' was removed %d times while it was created: which process removes files there?", name,
            CREATION_ATTEMPTS);
    return rc;
}
