/* layout.h - the layout of a segment and how it is validated. Shared by writer, reader and inspection. */
#ifndef BSHM_LAYOUT_H
#define BSHM_LAYOUT_H

#include "billiards_shm.h"
#include "errors.h"
#include "platform.h"

#define BSHM_NS_PER_MS INT64_C(1000000)

/* A copy of the caller's list, so the options do not have to outlive the call. */
typedef struct bshm_trusted {
    uint32_t uids[16];
    size_t count;
} bshm_trusted;

int bshm_trusted_copy(bshm_trusted *trusted, const bshm_owners *owners, bshm_error *error);
bool bshm_trusts(const bshm_trusted *trusted, uint32_t uid);

/* Fills all of `identity` except base_sequence, series and checksum, for `slots` and `history` slots of `capacity`
 * bytes.
 */
int bshm_identity_plan(bshm_identity *identity, uint64_t capacity, uint32_t slots, uint32_t history, bshm_error *error);
void bshm_identity_seal(bshm_identity *identity);
/* Checks everything that a reader relies on (VALIDATION in billiards_shm.h), and that it lies inside `object_bytes`. */
int bshm_identity_check(const bshm_identity *identity, uint64_t object_bytes, const char *name, bshm_error *error);
bool bshm_has_magic(const bshm_identity *identity);

/* Bytes of the header, the control region and `slots` slots. */
uint64_t bshm_backed_bytes(const bshm_identity *identity, uint64_t slots);

/* Checks the geometry that a writer asks for; computes row_stride and payload_bytes. */
int bshm_info_plan(bshm_frame_info *info, bshm_error *error);
/* Checks a descriptor that a reader copied: no overflow, all of it inside a slot. */
int bshm_info_check(const bshm_frame_info *info, uint64_t slot_capacity, const char *name, bshm_error *error);

/* A file that is open for a moment, or while a lock on it is needed. A child forked in that time closes it. */
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

/* Maps a part of an object that was not touched before. BSHM_E_FORMAT if it has no memory (a sparse copy on a
 * full file system): touching it would raise SIGBUS. */
int bshm_object_map(bshm_os_file file, uint64_t offset, uint64_t bytes, unsigned flags, const char *name,
                    void **address, bshm_error *error);

#endif
