/* platform_windows.h - what the files of the Windows layer share. */
#ifndef BSHM_PLATFORM_WINDOWS_H
#define BSHM_PLATFORM_WINDOWS_H

#include "platform.h"

#ifndef _WIN32_WINNT
#define _WIN32_WINNT 0x0A00
#endif
#define WIN32_LEAN_AND_MEAN
#define NOMINMAX
#include <windows.h>

#define WINDOWS_PATH_UNITS (PLAT_PATH_BYTES + 16) /* UTF-16; UTF-8 is never shorter, and the prefix has 8 at most */
#define WINDOWS_SHARE_ALL  (FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE)

/* The errno that is nearest to GetLastError(), negative. */
int windows_error(void);
int windows_error_of(DWORD error);

/* platform_windows_security.c: modes and owners as access control lists and security identifiers. */
int windows_descriptor_of_mode(uint32_t mode, PSECURITY_DESCRIPTOR *descriptor); /* to be freed with LocalFree */
int windows_descriptor_of_event(PSECURITY_DESCRIPTOR *descriptor);
/* Both are left as they are where the file does not tell. */
void windows_owner_and_mode(HANDLE file, uint32_t *owner_uid, uint32_t *mode);

/* platform_windows.c: paths, opening, and which object this is. */
int windows_widen(const char *path, wchar_t *wide); /* to WINDOWS_PATH_UNITS, absolute */
HANDLE windows_open(const wchar_t *path, DWORD access, DWORD how, DWORD flags, SECURITY_ATTRIBUTES *security);
int windows_open_path(const char *path, DWORD access, DWORD flags, HANDLE *file); /* what is there */
int windows_identify(HANDLE file, uint64_t *device, uint64_t *inode);
bool windows_leads_to(const wchar_t *path, uint64_t device, uint64_t inode);

/* platform_windows_names.c */
size_t windows_directory_units(const wchar_t *path); /* up to and with the last separator */
/* Removes what was moved out of the way in the directory of `path` and could not be removed then. */
void windows_sweep(const wchar_t *path);

#endif
