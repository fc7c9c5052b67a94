/* windows_base.c - what the other files of the Windows layer build on: errors, paths, opening, identity of a file. */
#include "../platform.h"
#ifdef _WIN32

#include "windows_base.h"

#include <errno.h>

/* ---------------------------------------------------------------- errors and paths */

int bshm_windows_error_of(DWORD error)
{
    static const struct {
        DWORD windows;
        int posix;
    } table[] = {
        {ERROR_FILE_NOT_FOUND, ENOENT},
        {ERROR_PATH_NOT_FOUND, ENOENT},
        {ERROR_INVALID_DRIVE, ENOENT},
        {ERROR_BAD_NETPATH, ENOENT},
        {ERROR_BAD_PATHNAME, ENOENT},
        {ERROR_DELETE_PENDING, ENOENT},
        {ERROR_DIRECTORY, ENOTDIR},
        {ERROR_ACCESS_DENIED, EACCES},
        {ERROR_SHARING_VIOLATION, EACCES},
        {ERROR_PRIVILEGE_NOT_HELD, EPERM},
        {ERROR_WRITE_PROTECT, EROFS},
        {ERROR_LOCK_VIOLATION, EAGAIN},
        {ERROR_FILE_EXISTS, EEXIST},
        {ERROR_ALREADY_EXISTS, EEXIST},
        {ERROR_DISK_FULL, ENOSPC},
        {ERROR_HANDLE_DISK_FULL, ENOSPC},
        {ERROR_DISK_QUOTA_EXCEEDED, EDQUOT},
        {ERROR_FILE_TOO_LARGE, EFBIG},
        {ERROR_NOT_ENOUGH_MEMORY, ENOMEM},
        {ERROR_OUTOFMEMORY, ENOMEM},
        {ERROR_COMMITMENT_LIMIT, ENOMEM},
        {ERROR_NO_SYSTEM_RESOURCES, ENOMEM},
        {ERROR_TOO_MANY_OPEN_FILES, EMFILE},
        {ERROR_HANDLE_EOF, ENODATA},
        {ERROR_NOT_SUPPORTED, EOPNOTSUPP},
        {ERROR_INVALID_FUNCTION, EOPNOTSUPP},
        {ERROR_USER_MAPPED_FILE, EBUSY},
        {ERROR_CANT_RESOLVE_FILENAME, ELOOP},
        {ERROR_INVALID_NAME, EINVAL},
        {ERROR_INVALID_PARAMETER, EINVAL},
        {ERROR_FILENAME_EXCED_RANGE, ENAMETOOLONG},
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++)
        if (table[i].windows == error)
            return -table[i].posix;
    return -EIO;
}

int bshm_windows_error(void)
{
    return bshm_windows_error_of(GetLastError());
}

int bshm_os_absolute_path(const char *path, char *absolute, size_t bytes)
{
    wchar_t given[WINDOWS_PATH_UNITS];
    wchar_t full[WINDOWS_PATH_UNITS];
    if (MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, path, -1, given, WINDOWS_PATH_UNITS) == 0)
        return GetLastError() == ERROR_INSUFFICIENT_BUFFER ? -ENAMETOOLONG : -EINVAL;
    DWORD units = GetFullPathNameW(given, WINDOWS_PATH_UNITS, full, NULL);
    if (units == 0)
        return bshm_windows_error();
    if (units >= WINDOWS_PATH_UNITS || WideCharToMultiByte(CP_UTF8, 0, full, -1, absolute, (int)bytes, NULL, NULL) == 0)
        return -ENAMETOOLONG;
    return 0;
}

/* Absolute and with the prefix \\?\, so that long paths and unusual names work. */
int bshm_windows_wide_path(const char *path, wchar_t *wide)
{
    wchar_t given[WINDOWS_PATH_UNITS];
    wchar_t full[WINDOWS_PATH_UNITS];
    if (MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, path, -1, given, WINDOWS_PATH_UNITS) == 0)
        return -EINVAL;
    DWORD units = GetFullPathNameW(given, WINDOWS_PATH_UNITS, full, NULL);
    if (units == 0)
        return bshm_windows_error();
    const wchar_t *prefix = L"\\\\?\\";
    const wchar_t *rest = full;
    if (full[0] == L'\\' && full[1] == L'\\') {
        bool marked = full[2] == L'?' || full[2] == L'.';
        prefix = marked ? L"" : L"\\\\?\\UNC\\";
        rest = marked ? full : full + 2;
    }
    if (units + 8 >= WINDOWS_PATH_UNITS)
        return -ENAMETOOLONG;
    (void)wcscpy_s(wide, WINDOWS_PATH_UNITS, prefix);
    (void)wcscat_s(wide, WINDOWS_PATH_UNITS, rest);
    return 0;
}

size_t bshm_windows_directory_units(const wchar_t *path)
{
    const wchar_t *last = wcsrchr(path, L'\\');
    return last ? (size_t)(last - path) + 1 : 0;
}

/* ---------------------------------------------------------------- opening and identity */

HANDLE bshm_windows_open(const wchar_t *path, DWORD access, DWORD how, DWORD flags, SECURITY_ATTRIBUTES *security)
{
    /* Not inheritable. Opens a link itself, not its target. */
    return CreateFileW(path, access, WINDOWS_SHARE_ALL, security, how, flags | FILE_FLAG_OPEN_REPARSE_POINT, NULL);
}

int bshm_windows_open_path(const char *path, DWORD access, DWORD flags, HANDLE *file)
{
    wchar_t wide[WINDOWS_PATH_UNITS];
    int rc = bshm_windows_wide_path(path, wide);
    *file = INVALID_HANDLE_VALUE;
    if (rc < 0)
        return rc;
    *file = bshm_windows_open(wide, access, OPEN_EXISTING, flags, NULL);
    return *file == INVALID_HANDLE_VALUE ? bshm_windows_error() : 0;
}

int bshm_windows_identify(HANDLE file, uint64_t *device, uint64_t *inode)
{
    BY_HANDLE_FILE_INFORMATION found;
    if (!GetFileInformationByHandle(file, &found))
        return bshm_windows_error();
    *device = found.dwVolumeSerialNumber;
    *inode = (uint64_t)found.nFileIndexHigh << 32 | found.nFileIndexLow;
    return 0;
}

bool bshm_windows_path_is(const wchar_t *path, uint64_t device, uint64_t inode)
{
    uint64_t there_device;
    uint64_t there_inode;
    HANDLE there = bshm_windows_open(path, FILE_READ_ATTRIBUTES, OPEN_EXISTING, FILE_FLAG_BACKUP_SEMANTICS, NULL);
    if (there == INVALID_HANDLE_VALUE)
        return false;
    int rc = bshm_windows_identify(there, &there_device, &there_inode);
    (void)CloseHandle(there);
    return rc == 0 && there_device == device && there_inode == inode;
}

#endif
