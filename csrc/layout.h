/* layout.h - the layout of a segment and how it is validated. Shared by writer, reader and inspection. */
#ifndef BSHM_LAYOUT_H
#define BSHM_LAYOUT_H

#include "billiards_shm.h"
#include "errors.h"
#include "platform.h"

#define BSHM_NS_PER_MS INT64_C(1000000)

/* A copy of the caller's list, so that the options need not outlive the call. */
typedef struct bshm_trusted {
    uint32_t uids[16];
    size_t count;
} bshm_trusted;

int bshm_trusted_copy(bshm_trusted *trusted, const bshm_owners *owners, bshm_error *error);
bool bshm_trusts(const bshm_trusted *trusted, uint32_t uid);

/* Fills all of `identity` except base_sequence, series and checksum, for `slots` and `history` slots of `capacity` bytes.
 */
int bshm_identity_plan(bshm_identity *identity, uint64_t capacity, uint32_t slots, uint32_t history, bshm_error *error);
void bshm_identity_seal(bshm_identity *identity);
/* Checks all that a reader relies on (VALIDATION in billiards_shm.h), and that it lies inside `object_bytes`. */
int bshm_identity_check(const bshm_identity *identity, uint64_t object_bytes, const char *name, bshm_error *error);
bool bshm_has_magic(const bshm_identity *identity);

/* Bytes of the header, the control region and `slots` slots. */
uint64_t bshm_backed_bytes(const bshm_identity *identity, uint64_t slots);

/* Checks the geometry that a writer asks for; computes row_stride and payload_bytes. */
int bshm_info_plan(bshm_frame_info *info, bshm_error *error);
/* Checks a descriptor that a reader copied: no overflow, all of it inside a slot. */
int bshm_info_check(const bshm_frame_info *info, uint64_t slot_capacity, const char *name, bshm_error *error);

/* A file that is open for a moment, or while a lock on it is needed. A child that is forked meanwhile closes it. */
typedef struct bshm_brief_file {
    bshm_os_fork_member fork_member;
    bshm_os_file file;
} bshm_brief_file;
int bshm_brief_open(bshm_brief_file *brief, const char *path, const char *name, enum bshm_os_access access,
                    const bshm_trusted *trusted, bshm_os_info *info, bshm_error *error);
void bshm_brief_close(bshm_brief_file *brief);

/* Opens a regular file of a trusted owner, on a file system that supports segments. Readers open it for reading,
 * writers and lease readers for reading and writing. BSHM_E_FORMAT, BSHM_E_PERMISSION, BSHM_E_NOT_FOUND, BSHM_E_NAME,
 * ... */
int bshm_object_open(const char *path, const char *name, enum bshm_os_access access, const bshm_trusted *trusted,
                     bshm_os_file *file, bshm_os_info *info, bshm_error *error);
/* Sets *file to BSHM_OS_NO_FILE too, and no fork happens in between. */
void bshm_object_close(bshm_os_file *file);
/* Reads the identity into private memory and checks it. */
int bshm_identity_read(bshm_os_file file, const bshm_os_info *info, const char *name, bshm_identity *identity,
                       bshm_error *error);

/* Maps a part of an object that was not touched before. BSHM_E_FORMAT if no memory is behind it (a sparse copy on a
 * full file system): touching it would be SIGBUS. */
int bshm_object_map(bshm_os_file file, uint64_t offset, uint64_t bytes, unsigned flags, const char *name,
                    void **address, bshm_error *error);

/* Copies word by word while the writer may be writing: a text in the copy may be half old and half new. */
void bshm_statistics_copy(bshm_statistics *copy, const bshm_statistics *statistics);
/* False: a text was being written during every attempt and may be half old and half new. A living writer finishes in
 * a moment: BSHM_TEXT_RETRIES calls, BSHM_TEXT_RETRY_NS apart, outlast one that was preempted in between. */
bool bshm_statistics_read(const bshm_statistics *statistics, bshm_source_view *view);
#define BSHM_TEXT_RETRIES  100
#define BSHM_TEXT_RETRY_NS INT64_C(200000)
/* How many bytes of a text fit `limit` without cutting a UTF-8 character. */
size_t bshm_text_fit(const char *text, size_t limit);
/* A text as NUL-padded words, cut to fit; and back. */
void bshm_text_store(bshm_shared64 *words, size_t count, const char *text);
void bshm_text_load(const bshm_shared64 *words, size_t count, char *text);

#endif
