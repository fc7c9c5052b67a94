/* inspect.c - looks at a segment without mapping it, so that no content of it can do harm. */
#include "layout.h"
#include "protocol.h"
#include "statistics.h"

#include <stdlib.h>
#include <string.h>

static void view_entry(const bshm_control *control, uint64_t place, const bshm_identity *identity,
                       bshm_reader_view *view)
{
    const bshm_reader_entry *entry = &control->readers[place];
    uint64_t mask = BSHM_TOKEN_MASK(identity->token_count);
    uint64_t tokens = bshm_load_relaxed(&entry->tokens);
    *view = (bshm_reader_view){.kind = BSHM_READER_LEASE};
    view->pid = (uint32_t)bshm_load_relaxed(&entry->pid);
    view->attached_wall_ns = (int64_t)bshm_load_relaxed(&entry->attached_wall_ns);
    view->frames = bshm_load_relaxed(&entry->frames);
    view->skipped = bshm_load_relaxed(&entry->skipped);
    view->copies = bshm_load_relaxed(&entry->copies);
    view->last_sequence = bshm_load_relaxed(&entry->last_sequence);
    bshm_text_load(entry->process_name, 4, view->process_name);
    for (uint32_t slot = 0; slot < identity->slot_count; slot++)
        view->leases += (bshm_load_relaxed(&control->pins[slot].word) & tokens & mask) != 0;
}

/* One lock, one reader: a process that may only read the object can hold a lock on any number of bytes. */
static void inspect_readers(bshm_os_file file, const bshm_control *control, bshm_inspection *inspection)
{
    const uint64_t first_observer = BSHM_READER_BYTE + BSHM_MAX_READERS;
    uint64_t from, to;
    for (uint64_t next = BSHM_READER_BYTE; inspection->reader_count < BSHM_MAX_READERS && next < first_observer &&
                                           bshm_os_find_locked(file, next, first_observer - 1, true, &from, &to) == 1;
         next = from + 1)
        view_entry(control, from - BSHM_READER_BYTE, &inspection->identity,
                   &inspection->readers[inspection->reader_count++]);
    const uint64_t last = first_observer + BSHM_MAX_READERS - 1;
    for (uint64_t next = first_observer; inspection->reader_count < BSHM_MAX_READERS && next <= last &&
                                         bshm_os_find_locked(file, next, last, false, &from, &to) == 1;
         next = to < last ? to + 1 : last + 1)
        inspection->readers[inspection->reader_count++] = (bshm_reader_view){.kind = BSHM_READER_OBSERVER};
}

/* False: the descriptor of the newest frame was being rewritten when it was read, or is corrupt. */
static bool inspect_frame(bshm_os_file file, const bshm_header *header, bshm_inspection *inspection)
{
    uint64_t latest = bshm_load_relaxed(&header->publication.latest);
    bshm_frame_info info;
    bshm_shared64 again;
    uint64_t seq;
    inspection->latest_sequence = BSHM_LATEST_SEQUENCE(latest);
    if (latest == 0 || BSHM_LATEST_SLOT(latest) >= inspection->identity.slot_count)
        return true;
    const bshm_descriptor *descriptor = &header->descriptors[BSHM_LATEST_SLOT(latest)];
    uint64_t offset = (uint64_t)((const uint8_t *)descriptor - (const uint8_t *)header);
    if (!bshm_step_load_descriptor(header, BSHM_LATEST_SLOT(latest), BSHM_LATEST_SEQUENCE(latest), &seq, &info) ||
        bshm_os_read(file, &again, sizeof again, offset) < 0 || bshm_load_relaxed(&again) != seq ||
        bshm_info_check(&info, inspection->identity.slot_capacity, "", NULL) < 0)
        return false;
    info.sequence = seq >> 1; /* from seq, not from the descriptor */
    inspection->frame = info;
    inspection->has_frame = 1;
    return true;
}

static int inspect_regions(bshm_os_file file, uint8_t *regions, const char *name, bshm_inspection *inspection,
                           bshm_error *error)
{
    const bshm_header *header = (const bshm_header *)(const void *)regions;
    for (int retry = 0; retry <= BSHM_TEXT_RETRIES; retry++) {
        int rc = bshm_os_read(file, regions, 2 * BSHM_REGION_BYTES, 0);
        if (rc < 0)
            return bshm_fail_system(error, rc, "read", name);
        if (bshm_load_relaxed32(&header->publication.state) == BSHM_STATE_CLOSED)
            inspection->status = BSHM_STATUS_CLOSED;
        else
            inspection->status = bshm_os_is_locked(file, BSHM_WRITER_BYTE) == 1 ? BSHM_STATUS_LIVE : BSHM_STATUS_DEAD;
        bool whole = bshm_statistics_read(&header->statistics, &inspection->source);
        whole = inspect_frame(file, header, inspection) && whole;
        if (whole || inspection->status != BSHM_STATUS_LIVE)
            break;
        bshm_os_sleep(BSHM_TEXT_RETRY_NS);
    }
    inspect_readers(file, (const bshm_control *)(const void *)(regions + BSHM_REGION_BYTES), inspection);
    return BSHM_OK;
}

int bshm_inspect(const char *name, const bshm_owners *owners, bshm_inspection *inspection, bshm_error *error)
{
    char path[BSHM_OS_PATH_BYTES];
    bshm_trusted trusted;
    bshm_brief_file file;
    bshm_os_info info;
    memset(inspection, 0, sizeof *inspection);
    int rc = bshm_object_path(name, path, sizeof path, error);
    if (rc == BSHM_OK)
        rc = bshm_trusted_copy(&trusted, owners, error);
    if (rc == BSHM_OK)
        rc = bshm_brief_open(&file, path, name, BSHM_OS_READ, &trusted, &info, error);
    if (rc < 0)
        return rc;
    rc = bshm_identity_read(file.file, &info, name, &inspection->identity, error);
    uint8_t *regions = rc == BSHM_OK ? malloc(2 * BSHM_REGION_BYTES) : NULL;
    if (regions) {
        inspection->allocated_bytes = info.allocated_bytes;
        inspection->owner_uid = info.owner_uid;
        inspection->group_gid = info.group_gid;
        inspection->mode = info.mode;
        rc = inspect_regions(file.file, regions, name, inspection, error);
    } else if (rc == BSHM_OK) {
        rc = bshm_fail(error, BSHM_E_MEMORY, "out of memory: cannot inspect '%s'", name);
    }
    free(regions);
    bshm_brief_close(&file);
    return rc;
}

int64_t bshm_now_ns(void)
{
    return bshm_os_now_ns();
}
