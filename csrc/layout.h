/* layout.h - what a segment is: geometry, identity, and how both are checked. Shared by writer, reader, inspection. */
#ifndef BSHM_LAYOUT_H
#define BSHM_LAYOUT_H

#include "billiards_shm.h"
#include "errors.h"
#include "platform.h"

#define BSHM_NS_PER_MS INT64_C(1000000)

/* Copies of the caller's lists, so that options need not outlive the call. */
typedef struct bshm_trusted {
    uint32_t uids[16];
    size_t count;
} bshm_trusted;

int bshm_trusted_copy(bshm_trusted *trusted, const bshm_owners *owners, bshm_error *error);
bool bshm_trusts(const bshm_trusted *trusted, uint32_t uid);

/* Fills everything in `identity` but base_sequence and checksum, for slots of `capacity` bytes. */
int bshm_identity_plan(bshm_identity *identity, uint64_t capacity, uint32_t slots, bshm_error *error);
void bshm_identity_seal(bshm_identity *identity);
/* Everything a reader relies on: magic, versions, checksum, and that all of it lies inside `object_bytes`. */
int bshm_identity_check(const bshm_identity *identity, uint64_t object_bytes, const char *name, bshm_error *error);
bool bshm_has_magic(const bshm_identity *identity);

/* Bytes behind the header, the control region and `slots` slots. */
uint64_t bshm_backed_bytes(const bshm_identity *identity, uint64_t slots);

/* A geometry that a writer may ask for: computes row_stride and payload_bytes. */
int bshm_info_plan(bshm_frame_info *info, bshm_error *error);
/* A descriptor that a reader found: overflow-checked, and inside a slot. */
int bshm_info_check(const bshm_frame_info *info, uint64_t slot_capacity, const char *name, bshm_error *error);

/* Opens for reading (BSHM_OS_READ) or as participant (BSHM_OS_READ_WRITE): a regular file of a trusted owner, on a file system
 * that can hold segments. BSHM_E_FORMAT, BSHM_E_PERMISSION, BSHM_E_NOT_FOUND, ... otherwise. */
int bshm_object_open(const char *path, const char *name, enum bshm_os_access access, const bshm_trusted *trusted,
                     bshm_os_file *file, bshm_os_info *info, bshm_error *error);
/* Opened and identified: additionally begins with a segment's identity, read into private memory and checked. */
int bshm_identity_read(bshm_os_file file, const bshm_os_info *info, const char *name, bshm_identity *identity,
                       bshm_error *error);

/* Part of an object that was never looked into: BSHM_E_FORMAT where there is no memory behind it (a sparse copy, on a
 * file system that is full), which would be SIGBUS later. */
int bshm_object_map(bshm_os_file file, uint64_t offset, uint64_t bytes, unsigned flags, const char *name,
                    void **address, bshm_error *error);

/* Word by word, while the writer may be changing them: the copy's texts may be half of one and half of the next. */
void bshm_statistics_copy(bshm_statistics *copy, const bshm_statistics *statistics);
/* False: the text was being written all the while and may be half of one and half of the next. A writer that lives will
 * be done in a moment: BSHM_TEXT_RETRIES looks, BSHM_TEXT_RETRY_NS apart, outlast one that has lost the processor. */
bool bshm_statistics_read(const bshm_statistics *statistics, bshm_source_view *view);
#define BSHM_TEXT_RETRIES  100
#define BSHM_TEXT_RETRY_NS INT64_C(200000)
/* How much of a text fits `limit` bytes without half a character (UTF-8). */
size_t bshm_text_fit(const char *text, size_t limit);
/* NUL-padded words from text that fits; and back. */
void bshm_text_store(bshm_shared64 *words, size_t count, const char *text);
void bshm_text_load(const bshm_shared64 *words, size_t count, char *text);

#endif
