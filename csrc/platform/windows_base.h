/* windows_base.h - what the other files of the Windows layer build on: errors, paths, opening, identity of a file. */
#ifndef BSHM_WINDOWS_BASE_H
#define BSHM_WINDOWS_BASE_H

#include "../platform.h"

#ifndef _WIN32_WINNT
#define _WIN32_WINNT 0x0A00
#endif
#define WIN32_LEAN_AND_MEAN
#define NOMINMAX
#include <windows.h>

/* In UTF-16, which never takes more units than UTF-8 takes bytes; the prefix has 8 at most. */
#define WINDOWS_PATH_UNITS (BSHM_OS_PATH_BYTES + 16)
#define WINDOWS_SHARE_ALL  (FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE)

/* The nearest errno to GetLastError(), negative. */
int bshm_windows_error(void);
int bshm_windows_error_of(DWORD error);

int bshm_windows_wide_path(const char *path, wchar_t *wide); /* absolute; `wide` has room for WINDOWS_PATH_UNITS */
size_t bshm_windows_directory_units(const wchar_t *path);    /* up to and including the last separator */

HANDLE bshm_windows_open(const wchar_t *path, DWORD access, DWORD how, DWORD flags, SECURITY_ATTRIBUTES *security);
int bshm_windows_open_path(const char *path, DWORD access, DWORD flags, HANDLE *file); /* an existing file */
int bshm_windows_identify(HANDLE file, uint64_t *device, uint64_t *inode);
bool bshm_windows_path_is(const wchar_t *path, uint64_t device, uint64_t inode); /* the path leads to this file */

#endif
