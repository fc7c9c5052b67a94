/* windows_names.c - renaming and removing on Windows 10 and later.
 *
 * Windows may refuse to remove or replace a file that is mapped. Such a file is first renamed to a leftover
 * (LEFTOVER), and removed by the process that unmaps it last, or by one that creates the next segment in that
 * directory.
 */
#include "../platform.h"
#ifdef _WIN32

#include "windows_names.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LEFTOVER L".bshm-gone" /* then 12 hexadecimal digits and "~": as long as a temporary's name, but different */

static int rename_to(HANDLE file, const wchar_t *to, bool in_one_step)
{
    size_t bytes = wcslen(to) * sizeof *to;
    FILE_RENAME_INFO *rename = calloc(1, sizeof *rename + bytes);
    if (!rename)
        return -ENOMEM;
    rename->FileNameLength = (DWORD)bytes;
    memcpy(rename->FileName, to, bytes);
    if (in_one_step)
        rename->Flags = FILE_RENAME_FLAG_REPLACE_IF_EXISTS | FILE_RENAME_FLAG_POSIX_SEMANTICS;
    FILE_INFO_BY_HANDLE_CLASS what = in_one_step ? FileRenameInfoEx : FileRenameInfo;
    int rc = SetFileInformationByHandle(file, what, rename, (DWORD)(sizeof *rename + bytes)) ? 0 : bshm_windows_error();
    free(rename);
    return rc;
}

static int mark_removed(HANDLE file, bool in_one_step)
{
    FILE_DISPOSITION_INFO plain = {.DeleteFile = TRUE};
    FILE_DISPOSITION_INFO_EX posix = {.Flags = FILE_DISPOSITION_FLAG_DELETE | FILE_DISPOSITION_FLAG_POSIX_SEMANTICS};
    BOOL done = in_one_step ? SetFileInformationByHandle(file, FileDispositionInfoEx, &posix, sizeof posix)
                            : SetFileInformationByHandle(file, FileDispositionInfo, &plain, sizeof plain);
    return done ? 0 : bshm_windows_error();
}

static int leftover_path(const wchar_t *path, wchar_t *leftover)
{
    uint64_t random;
    int rc = bshm_os_random(&random, sizeof random);
    int units =
        swprintf(leftover, WINDOWS_PATH_UNITS, L"%.*ls" LEFTOVER L"%012llx~", (int)bshm_windows_directory_units(path),
                 path, (unsigned long long)(random & UINT64_C(0xFFFFFFFFFFFF)));
    return rc < 0 ? rc : units < 0 ? -ENAMETOOLONG : 0;
}

/* Renames `file`, which has the name `path`, to a leftover that is removed when the last process unmaps it. */
static int move_away(HANDLE file, const wchar_t *path)
{
    wchar_t leftover[WINDOWS_PATH_UNITS];
    int rc = leftover_path(path, leftover);
    if (rc == 0)
        rc = rename_to(file, leftover, false);
    if (rc == 0)
        (void)mark_removed(file, false);
    return rc;
}

void bshm_windows_remove_leftovers(const wchar_t *path)
{
    wchar_t pattern[WINDOWS_PATH_UNITS];
    WIN32_FIND_DATAW found;
    int directory = (int)bshm_windows_directory_units(path);
    if (swprintf(pattern, WINDOWS_PATH_UNITS, L"%.*ls" LEFTOVER L"*~", directory, path) < 0)
        return;
    HANDLE search = FindFirstFileW(pattern, &found);
    if (search == INVALID_HANDLE_VALUE)
        return;
    do {
        if (swprintf(pattern, WINDOWS_PATH_UNITS, L"%.*ls%ls", directory, path, found.cFileName) < 0)
            continue;
        HANDLE file = bshm_windows_open(pattern, DELETE, OPEN_EXISTING, 0, NULL);
        if (file == INVALID_HANDLE_VALUE)
            continue;
        (void)mark_removed(file, false); /* refused while it is mapped */
        (void)CloseHandle(file);
    } while (FindNextFileW(search, &found));
    (void)FindClose(search);
}

/* Two steps; in between the name is free. -EEXIST: another process took it then. */
static int replace_in_two_steps(HANDLE file, const wchar_t *to)
{
    HANDLE there = bshm_windows_open(to, DELETE, OPEN_EXISTING, 0, NULL);
    int rc = there == INVALID_HANDLE_VALUE ? bshm_windows_error() : move_away(there, to);
    if (there != INVALID_HANDLE_VALUE)
        (void)CloseHandle(there);
    return rc < 0 && rc != -ENOENT ? rc : rename_to(file, to, false);
}

int bshm_os_rename(const char *from, const char *to, bool replace)
{
    HANDLE file;
    wchar_t wide[WINDOWS_PATH_UNITS];
    int rc = bshm_windows_wide_path(to, wide);
    if (rc == 0)
        rc = bshm_windows_open_path(from, DELETE, 0, &file);
    if (rc < 0)
        return rc;
    rc = rename_to(file, wide, replace);
    if (replace && rc < 0)
        rc = replace_in_two_steps(file, wide);
    (void)CloseHandle(file);
    return rc;
}

int bshm_os_unlink(const char *path)
{
    HANDLE file;
    wchar_t wide[WINDOWS_PATH_UNITS];
    int rc = bshm_windows_wide_path(path, wide);
    if (rc == 0)
        rc = bshm_windows_open_path(path, DELETE, 0, &file);
    if (rc < 0)
        return rc;
    rc = mark_removed(file, true);
    if (rc < 0)
        rc = move_away(file, wide); /* if it were only marked, the name would stay taken until all handles are closed */
    (void)CloseHandle(file);
    return rc;
}

#endif
