/* platform_windows.c - files and locks of Windows 10 and later.
 *
 * A segment is a file whose pages the system is asked to keep in memory (FILE_ATTRIBUTE_TEMPORARY); a name is a file in
 * the user's own directory for temporary files. A section without a file would vanish with its last process, and the
 * newest frame of a dead writer with it; and it is seen by one login session only.
 */
#include "platform.h"
#ifdef _WIN32

#include "platform_windows.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <winioctl.h>

#define OBJECT_DIRECTORY L"billiards_shm"
#define ZEROS_BYTES      65536u

/* ---------------------------------------------------------------- errors and paths */

int windows_error_of(DWORD error)
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

int windows_error(void)
{
    return windows_error_of(GetLastError());
}

/* Absolute and marked as such, so that neither length nor odd names are in the way. */
int windows_widen(const char *path, wchar_t *wide)
{
    wchar_t given[WINDOWS_PATH_UNITS];
    wchar_t full[WINDOWS_PATH_UNITS];
    if (MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, path, -1, given, WINDOWS_PATH_UNITS) == 0)
        return -EINVAL;
    DWORD units = GetFullPathNameW(given, WINDOWS_PATH_UNITS, full, NULL);
    if (units == 0)
        return windows_error();
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

static char object_directory[PLAT_PATH_BYTES];

static BOOL CALLBACK find_object_directory(PINIT_ONCE once, void *parameter, void **context)
{
    wchar_t directory[WINDOWS_PATH_UNITS];
    (void)once, (void)parameter, (void)context;
    /* Not %TEMP%: processes of one user may have different ones, and must find each other. */
    DWORD units = GetEnvironmentVariableW(L"LOCALAPPDATA", directory, MAX_PATH);
    if (units > 0 && units < MAX_PATH)
        (void)wcscat_s(directory, WINDOWS_PATH_UNITS, L"\\Temp\\");
    else if (GetTempPathW(MAX_PATH, directory) == 0)
        (void)wcscpy_s(directory, WINDOWS_PATH_UNITS, L"C:\\Windows\\Temp\\");
    (void)CreateDirectoryW(directory, NULL); /* if they cannot be made, the first use of them says why */
    (void)wcscat_s(directory, WINDOWS_PATH_UNITS, OBJECT_DIRECTORY);
    (void)CreateDirectoryW(directory, NULL);
    (void)WideCharToMultiByte(CP_UTF8, 0, directory, -1, object_directory, sizeof object_directory, NULL, NULL);
    return TRUE;
}

const char *plat_object_directory(void)
{
    static INIT_ONCE once = INIT_ONCE_STATIC_INIT;
    (void)InitOnceExecuteOnce(&once, find_object_directory, NULL, NULL);
    return object_directory;
}

/* ---------------------------------------------------------------- files */

HANDLE windows_open(const wchar_t *path, DWORD access, DWORD how, DWORD flags, SECURITY_ATTRIBUTES *security)
{
    /* Not inheritable, and of a link the link itself. */
    return CreateFileW(path, access, WINDOWS_SHARE_ALL, security, how, flags | FILE_FLAG_OPEN_REPARSE_POINT, NULL);
}

int windows_open_path(const char *path, DWORD access, DWORD flags, HANDLE *file)
{
    wchar_t wide[WINDOWS_PATH_UNITS];
    int rc = windows_widen(path, wide);
    *file = INVALID_HANDLE_VALUE;
    if (rc < 0)
        return rc;
    *file = windows_open(wide, access, OPEN_EXISTING, flags, NULL);
    return *file == INVALID_HANDLE_VALUE ? windows_error() : 0;
}

int plat_create(const char *path, plat_file *file)
{
    wchar_t wide[WINDOWS_PATH_UNITS];
    SECURITY_ATTRIBUTES security = {.nLength = sizeof security};
    *file = PLAT_NO_FILE;
    int rc = windows_widen(path, wide);
    if (rc == 0)
        rc = windows_descriptor_of_mode(0600, &security.lpSecurityDescriptor);
    if (rc < 0)
        return rc;
    windows_sweep(wide);
    *file =
        windows_open(wide, GENERIC_READ | GENERIC_WRITE | WRITE_DAC, CREATE_NEW, FILE_ATTRIBUTE_TEMPORARY, &security);
    rc = *file == INVALID_HANDLE_VALUE ? windows_error() : 0;
    (void)LocalFree(security.lpSecurityDescriptor);
    return rc;
}

int plat_set_mode(plat_file file, uint32_t mode)
{
    PSECURITY_DESCRIPTOR descriptor;
    int rc = windows_descriptor_of_mode(mode, &descriptor);
    if (rc < 0)
        return rc;
    rc = SetKernelObjectSecurity(file, DACL_SECURITY_INFORMATION, descriptor) ? 0 : windows_error();
    (void)LocalFree(descriptor);
    return rc;
}

int plat_open(const char *path, enum plat_access access, plat_file *file)
{
    plat_info info;
    int rc = windows_open_path(path, access == PLAT_READ ? GENERIC_READ : GENERIC_READ | GENERIC_WRITE, 0, file);
    if (rc < 0)
        return rc;
    rc = plat_info_of(*file, &info);
    if (rc == 0 && info.symbolic_link)
        rc = -ELOOP;
    if (rc < 0) {
        plat_close(*file);
        *file = PLAT_NO_FILE;
    }
    return rc;
}

void plat_close(plat_file file)
{
    if (file != PLAT_NO_FILE)
        (void)CloseHandle(file);
}

int windows_identify(HANDLE file, uint64_t *device, uint64_t *inode)
{
    BY_HANDLE_FILE_INFORMATION found;
    if (!GetFileInformationByHandle(file, &found))
        return windows_error();
    *device = found.dwVolumeSerialNumber;
    *inode = (uint64_t)found.nFileIndexHigh << 32 | found.nFileIndexLow;
    return 0;
}

/* 100 ns since 1601 to ns since 1970. */
static int64_t wall_ns_of(FILETIME time)
{
    uint64_t ticks = (uint64_t)time.dwHighDateTime << 32 | time.dwLowDateTime;
    return (int64_t)((ticks - UINT64_C(116444736000000000)) * 100);
}

int plat_info_of(plat_file file, plat_info *info)
{
    BY_HANDLE_FILE_INFORMATION found;
    FILE_STANDARD_INFO sizes = {0};
    FILE_ATTRIBUTE_TAG_INFO tag = {0};
    if (!GetFileInformationByHandle(file, &found))
        return windows_error();
    (void)GetFileInformationByHandleEx(file, FileStandardInfo, &sizes, sizeof sizes);
    (void)GetFileInformationByHandleEx(file, FileAttributeTagInfo, &tag, sizeof tag);
    bool link = (found.dwFileAttributes & FILE_ATTRIBUTE_REPARSE_POINT) && IsReparseTagNameSurrogate(tag.ReparseTag);
    *info = (plat_info){
        .device = found.dwVolumeSerialNumber,
        .inode = (uint64_t)found.nFileIndexHigh << 32 | found.nFileIndexLow,
        .size_bytes = (uint64_t)found.nFileSizeHigh << 32 | found.nFileSizeLow,
        .allocated_bytes = (uint64_t)sizes.AllocationSize.QuadPart,
        .modified_wall_ns = wall_ns_of(found.ftLastWriteTime),
        .owner_uid = UINT32_MAX, /* nobody's, if the file does not tell */
        .symbolic_link = link,
        .regular = !link && !(found.dwFileAttributes & FILE_ATTRIBUTE_DIRECTORY) && GetFileType(file) == FILE_TYPE_DISK,
    };
    windows_owner_and_mode(file, &info->owner_uid, &info->mode);
    return 0;
}

int plat_info_at(const char *path, plat_info *info)
{
    HANDLE file;
    int rc = windows_open_path(path, FILE_READ_ATTRIBUTES | READ_CONTROL, FILE_FLAG_BACKUP_SEMANTICS, &file);
    if (rc == -EACCES) /* who may not read it may still see that it is there */
        rc = windows_open_path(path, FILE_READ_ATTRIBUTES, FILE_FLAG_BACKUP_SEMANTICS, &file);
    if (rc < 0)
        return rc;
    rc = plat_info_of(file, info);
    (void)CloseHandle(file);
    return rc;
}

bool windows_leads_to(const wchar_t *path, uint64_t device, uint64_t inode)
{
    uint64_t there_device;
    uint64_t there_inode;
    HANDLE there = windows_open(path, FILE_READ_ATTRIBUTES, OPEN_EXISTING, FILE_FLAG_BACKUP_SEMANTICS, NULL);
    if (there == INVALID_HANDLE_VALUE)
        return false;
    int rc = windows_identify(there, &there_device, &there_inode);
    (void)CloseHandle(there);
    return rc == 0 && there_device == device && there_inode == inode;
}

int plat_resize(plat_file file, uint64_t bytes)
{
    FILE_END_OF_FILE_INFO end;
    DWORD ignored;
    if (bytes > INT64_MAX)
        return -EFBIG;
    /* Or every slot would take its room on the disk at once. Not every file system can. */
    (void)DeviceIoControl(file, FSCTL_SET_SPARSE, NULL, 0, NULL, 0, &ignored, NULL);
    end.EndOfFile.QuadPart = (LONGLONG)bytes;
    return SetFileInformationByHandle(file, FileEndOfFileInfo, &end, sizeof end) ? 0 : windows_error();
}

static OVERLAPPED at_offset(uint64_t offset)
{
    return (OVERLAPPED){.Offset = (DWORD)offset, .OffsetHigh = (DWORD)(offset >> 32)};
}

int plat_read(plat_file file, void *buffer, size_t bytes, uint64_t offset)
{
    uint8_t *to = buffer;
    while (bytes > 0) {
        OVERLAPPED from = at_offset(offset);
        DWORD got = 0;
        if (!ReadFile(file, to, bytes < (1u << 30) ? (DWORD)bytes : 1u << 30, &got, &from))
            return windows_error();
        if (got == 0)
            return -ENODATA;
        to += got;
        offset += got;
        bytes -= got;
    }
    return 0;
}

int plat_supported(plat_file file, const char **kind)
{
    FILE_REMOTE_PROTOCOL_INFO remote;
    *kind = "";
    if (!GetFileInformationByHandleEx(file, FileRemoteProtocolInfo, &remote, sizeof remote))
        return 0; /* it fails for what is local */
    *kind = "a network share";
    return -EOPNOTSUPP;
}

/* ---------------------------------------------------------------- memory behind a range */

int plat_back(plat_file file, uint64_t offset, uint64_t bytes)
{
    static const uint8_t zeros[ZEROS_BYTES];
    uint64_t done = 0;
    while (done < bytes) {
        OVERLAPPED to = at_offset(offset + done);
        DWORD put = 0;
        DWORD piece = bytes - done < sizeof zeros ? (DWORD)(bytes - done) : (DWORD)sizeof zeros;
        if (!WriteFile(file, zeros, piece, &put, &to) || put == 0) {
            int rc = windows_error();
            (void)plat_unback(file, offset, bytes);
            return rc;
        }
        done += put;
    }
    return 0;
}

int plat_unback(plat_file file, uint64_t offset, uint64_t bytes)
{
    FILE_ZERO_DATA_INFORMATION range;
    DWORD ignored;
    range.FileOffset.QuadPart = (LONGLONG)offset;
    range.BeyondFinalZero.QuadPart = (LONGLONG)(offset + bytes);
    return DeviceIoControl(file, FSCTL_SET_ZERO_DATA, &range, sizeof range, NULL, 0, &ignored, NULL) ? 0
                                                                                                     : windows_error();
}

uint64_t plat_free_bytes(plat_file file)
{
    wchar_t path[WINDOWS_PATH_UNITS];
    ULARGE_INTEGER free_bytes;
    DWORD units = file == PLAT_NO_FILE ? 0 : GetFinalPathNameByHandleW(file, path, WINDOWS_PATH_UNITS, 0);
    if (units == 0 || units >= WINDOWS_PATH_UNITS)
        return 0;
    path[windows_directory_units(path)] = L'\0';
    return GetDiskFreeSpaceExW(path, &free_bytes, NULL, NULL) ? free_bytes.QuadPart : 0;
}

/* ---------------------------------------------------------------- locks */

static int lock_range(plat_file file, uint64_t first, uint64_t count, bool exclusive)
{
    OVERLAPPED at = at_offset(first);
    DWORD flags = LOCKFILE_FAIL_IMMEDIATELY | (exclusive ? LOCKFILE_EXCLUSIVE_LOCK : 0);
    if (LockFileEx(file, flags, 0, (DWORD)count, (DWORD)(count >> 32), &at))
        return 0;
    DWORD error = GetLastError();
    return error == ERROR_IO_PENDING ? -EAGAIN : windows_error_of(error);
}

static void unlock_range(plat_file file, uint64_t first, uint64_t count)
{
    OVERLAPPED at = at_offset(first);
    (void)UnlockFileEx(file, 0, (DWORD)count, (DWORD)(count >> 32), &at);
}

int plat_lock(plat_file file, uint64_t byte, bool exclusive)
{
    return lock_range(file, byte, 1, exclusive);
}

int plat_weaken_lock(plat_file file, uint64_t byte)
{
    /* A shared lock may lie over an exclusive one of the same handle, and of two the exclusive one is unlocked first. */
    int rc = lock_range(file, byte, 1, false);
    unlock_range(file, byte, 1);
    return rc < 0 ? lock_range(file, byte, 1, false) : 0;
}

void plat_unlock(plat_file file, uint64_t byte)
{
    unlock_range(file, byte, 1);
}

int plat_locked(plat_file file, uint64_t byte)
{
    /* There is no asking, only trying: for a moment, with a lock that stands in nobody's way but a new owner's. */
    int rc = lock_range(file, byte, 1, false);
    if (rc == 0)
        unlock_range(file, byte, 1);
    return rc == -EAGAIN ? 1 : rc;
}

static int range_is_locked(plat_file file, uint64_t first, uint64_t last)
{
    int rc = lock_range(file, first, last - first + 1, true);
    if (rc == 0)
        unlock_range(file, first, last - first + 1);
    return rc == -EAGAIN ? 1 : rc;
}

int plat_next_locked(plat_file file, uint64_t first, uint64_t last, uint64_t *byte)
{
    int rc = range_is_locked(file, first, last);
    while (rc == 1 && first < last) {
        uint64_t middle = first + (last - first) / 2;
        int lower = range_is_locked(file, first, middle);
        if (lower < 0)
            return lower;
        if (lower == 1)
            last = middle;
        else
            first = middle + 1;
    }
    *byte = first;
    return rc;
}

#endif
