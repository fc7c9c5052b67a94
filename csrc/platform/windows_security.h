/* windows_security.h - modes and owners as access control lists and security identifiers. */
#ifndef BSHM_WINDOWS_SECURITY_H
#define BSHM_WINDOWS_SECURITY_H

#include "windows_base.h"

/* Descriptors are freed with LocalFree. */
int bshm_windows_descriptor_of_mode(uint32_t mode, PSECURITY_DESCRIPTOR *descriptor);
int bshm_windows_descriptor_of_event(PSECURITY_DESCRIPTOR *descriptor);
/* Leaves both unchanged if they cannot be read. */
void bshm_windows_owner_and_mode(HANDLE file, uint32_t *owner_uid, uint32_t *mode);

#endif
