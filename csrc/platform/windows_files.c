/* windows_files.c - files and locks of Windows 10 and later.
 *
 * A segment is a file whose pages the system is asked to keep in memory (FILE_ATTRIBUTE_TEMPORARY). A name is a file
 * in the user's own directory for temporary files. A section without a file would vanish with its last process, and
 * with it the newest frame of a dead writer; and it is visible only in one login session.
 */
#include "../platform.h"
#ifdef _WIN32

#include "windows_base.h"
#include "windows_names.h"
#include "windows_security.h"

#include <errno.h>
#include <winioctl.h>

#define OBJECT_DIRECTORY L"billiards_shm"
#define ZEROS_BYTES      65536u

static char object_directory[BSHM_OS_PATH_BYTES];

static BOOL CALLBACK init_object_directory(PINIT_ONCE once, void *parameter, void **context)
{
    wchar_t directory[WINDOWS_PATH_UNITS];
    (void)once, (void)parameter, (void)context;
    /* Not %TEMP%: processes of one user may have different ones, but must find each other. */
    DWORD units = GetEnvironmentVariableW(L"LOCALAPPDATA", directory, MAX_PATH);
    if (units > 0 && units < MAX_PATH)
        (void)wcscat_s(directory, WINDOWS_PATH_UNITS, L"\\Temp\\");
    else if (GetTempPathW(MAX_PATH, directory) == 0)
        (void)wcscpy_s(directory, WINDOWS_PATH_UNITS, L"C:\\Windows\\Temp\\");
    (void)CreateDirectoryW(directory, NULL); /* if these fail, the first use of the directory reports why */
    (void)wcscat_s(directory, WINDOWS_PATH_UNITS, OBJECT_DIRECTORY);
    (void)CreateDirectoryW(directory, NULL);
    (void)WideCharToMultiByte(CP_UTF8, 0, directory, -1, object_directory, sizeof object_directory, NULL, NULL);
    return TRUE;
}

const char *bshm_os_object_directory(void)
{
    static INIT_ONCE once = INIT_ONCE_STATIC_INIT;
    (void)InitOnceExecuteOnce(&once, init_object_directory, NULL, NULL);
    return object_directory;
}

/* ---------------------------------------------------------------- files */

int bshm_os_create(const char *path, bshm_os_file *file)
{
    wchar_t wide[WINDOWS_PATH_UNITS];
    SECURITY_ATTRIBUTES security = {.nLength = sizeof security};
    *file = BSHM_OS_NO_FILE;
    int rc = bshm_windows_wide_path(path, wide);
    if (rc == 0)
        rc = bshm_windows_descriptor_of_mode(0600, &security.lpSecurityDescriptor);
    if (rc < 0)
        return rc;
    bshm_windows_remove_leftovers(wide);
    *file = bshm_windows_open(wide, GENERIC_READ | GENERIC_WRITE | WRITE_DAC, CREATE_NEW, FILE_ATTRIBUTE_TEMPORARY,
                              &security);
    rc = *file == INVALID_HANDLE_VALUE ? bshm_windows_error() : 0;
    (void)LocalFree(security.lpSecurityDescriptor);
    return rc;
}

int bshm_os_set_mode(bshm_os_file file, uint32_t mode)
{
    PSECURITY_DESCRIPTOR descriptor;
    int rc = bshm_windows_descriptor_of_mode(mode, &descriptor);
    if (rc < 0)
        return rc;
    rc = SetKernelObjectSecurity(file, DACL_SECURITY_INFORMATION, descriptor) ? 0 : bshm_windows_error();
    (void)LocalFree(descriptor);
    return rc;
}

int bshm_os_set_group(bshm_os_file file, uint32_t gid)
{
    (void)file;
    (void)gid;
    return -ENOTSUP;
}

int bshm_os_open(const char *path, enum bshm_os_access access, bshm_os_file *file)
{
    bshm_os_info info;
    int rc =
        bshm_windows_open_path(path, access == BSHM_OS_READ ? GENERIC_READ : GENERIC_READ | GENERIC_WRITE, 0, file);
    if (rc < 0)
        return rc;
    rc = bshm_os_info_of(*file, &info);
    if (rc == 0 && info.symbolic_link)
        rc = -ELOOP;
    if (rc < 0) {
        bshm_os_close(*file);
        *file = BSHM_OS_NO_FILE;
    }
    return rc;
}

void bshm_os_close(bshm_os_file file)
{
    if (file != BSHM_OS_NO_FILE)
        (void)CloseHandle(file);
}

/* 100 ns since 1601 to ns since 1970. */
static int64_t wall_ns_of(FILETIME time)
{
    uint64_t ticks = (uint64_t)time.dwHighDateTime << 32 | time.dwLowDateTime;
    return (int64_t)((ticks - UINT64_C(116444736000000000)) * 100);
}

int bshm_os_info_of(bshm_os_file file, bshm_os_info *info)
{
    BY_HANDLE_FILE_INFORMATION found;
    FILE_STANDARD_INFO sizes = {0};
    FILE_ATTRIBUTE_TAG_INFO tag = {0};
    if (!GetFileInformationByHandle(file, &found))
        return bshm_windows_error();
    (void)GetFileInformationByHandleEx(file, FileStandardInfo, &sizes, sizeof sizes);
    (void)GetFileInformationByHandleEx(file, FileAttributeTagInfo, &tag, sizeof tag);
    bool link = (found.dwFileAttributes & FILE_ATTRIBUTE_REPARSE_POINT) && IsReparseTagNameSurrogate(tag.ReparseTag);
    *info = (bshm_os_info){
        .device = found.dwVolumeSerialNumber,
        .inode = (uint64_t)found.nFileIndexHigh << 32 | found.nFileIndexLow,
        .size_bytes = (uint64_t)found.nFileSizeHigh << 32 | found.nFileSizeLow,
        .allocated_bytes = (uint64_t)sizes.AllocationSize.QuadPart,
        .modified_wall_ns = wall_ns_of(found.ftLastWriteTime),
        .owner_uid = UINT32_MAX, /* not a user's number, if the file has no owner */
        .group_gid = UINT32_MAX,
        .symbolic_link = link,
        .regular = !link && !(found.dwFileAttributes & FILE_ATTRIBUTE_DIRECTORY) && GetFileType(file) == FILE_TYPE_DISK,
    };
    bshm_windows_owner_and_mode(file, &info->owner_uid, &info->mode);
    return 0;
}

int bshm_os_info_at(const char *path, bshm_os_info *info)
{
    HANDLE file;
    int rc = bshm_windows_open_path(path, FILE_READ_ATTRIBUTES | READ_CONTROL, FILE_FLAG_BACKUP_SEMANTICS, &file);
    if (rc == -EACCES) /* a user who may not read the file may still see that it exists */
        rc = bshm_windows_open_path(path, FILE_READ_ATTRIBUTES, FILE_FLAG_BACKUP_SEMANTICS, &file);
    if (rc < 0)
        return rc;
    rc = bshm_os_info_of(file, info);
    (void)CloseHandle(file);
    return rc;
}

int bshm_os_resize(bshm_os_file file, uint64_t bytes)
{
    FILE_END_OF_FILE_INFO end;
    DWORD ignored;
    if (bytes > INT64_MAX)
        return -EFBIG;
    /* Otherwise every slot would immediately take its space on the disk. Some file systems have no sparse files. */
    (void)DeviceIoControl(file, FSCTL_SET_SPARSE, NULL, 0, NULL, 0, &ignored, NULL);
    end.EndOfFile.QuadPart = (LONGLONG)bytes;
    return SetFileInformationByHandle(file, FileEndOfFileInfo, &end, sizeof end) ? 0 : bshm_windows_error();
}

static OVERLAPPED at_offset(uint64_t offset)
{
    return (OVERLAPPED){.Offset = (DWORD)offset, .OffsetHigh = (DWORD)(offset >> 32)};
}

int bshm_os_read(bshm_os_file file, void *buffer, size_t bytes, uint64_t offset)
{
    uint8_t *to = buffer;
    while (bytes > 0) {
        OVERLAPPED from = at_offset(offset);
        DWORD got = 0;
        if (!ReadFile(file, to, bytes < (1u << 30) ? (DWORD)bytes : 1u << 30, &got, &from))
            return bshm_windows_error();
        if (got == 0)
            return -ENODATA;
        to += got;
        offset += got;
        bytes -= got;
    }
    return 0;
}

int bshm_os_check_file_system(bshm_os_file file, const char **kind)
{
    FILE_REMOTE_PROTOCOL_INFO remote;
    *kind = "";
    if (!GetFileInformationByHandleEx(file, FileRemoteProtocolInfo, &remote, sizeof remote))
        return 0; /* fails for local files */
    *kind = "a network share";
    return -EOPNOTSUPP;
}

/* ---------------------------------------------------------------- memory behind a range */

int bshm_os_allocate(bshm_os_file file, uint64_t offset, uint64_t bytes)
{
    static const uint8_t zeros[ZEROS_BYTES];
    uint64_t done = 0;
    uint64_t free_bytes = bshm_os_free_bytes(file); /* 0: unknown, or none, which the first write reports */
    if (free_bytes > 0 && bytes > free_bytes)
        return -ENOSPC;
    while (done < bytes) {
        OVERLAPPED to = at_offset(offset + done);
        DWORD put = 0;
        DWORD piece = bytes - done < sizeof zeros ? (DWORD)(bytes - done) : (DWORD)sizeof zeros;
        if (!WriteFile(file, zeros, piece, &put, &to) || put == 0) {
            int rc = bshm_windows_error();
            (void)bshm_os_punch(file, offset, bytes);
            return rc;
        }
        done += put;
    }
    return 0;
}

int bshm_os_punch(bshm_os_file file, uint64_t offset, uint64_t bytes)
{
    FILE_ZERO_DATA_INFORMATION range;
    DWORD ignored;
    range.FileOffset.QuadPart = (LONGLONG)offset;
    range.BeyondFinalZero.QuadPart = (LONGLONG)(offset + bytes);
    return DeviceIoControl(file, FSCTL_SET_ZERO_DATA, &range, sizeof range, NULL, 0, &ignored, NULL)
               ? 0
               : bshm_windows_error();
}

bool bshm_os_has_no_hole(bshm_os_file file, uint64_t offset, uint64_t bytes)
{
    (void)file, (void)offset, (void)bytes;
    return true; /* reading a hole takes no disk space */
}

uint64_t bshm_os_free_bytes(bshm_os_file file)
{
    wchar_t path[WINDOWS_PATH_UNITS];
    ULARGE_INTEGER free_bytes;
    DWORD units = file == BSHM_OS_NO_FILE ? 0 : GetFinalPathNameByHandleW(file, path, WINDOWS_PATH_UNITS, 0);
    if (units == 0 || units >= WINDOWS_PATH_UNITS)
        return 0;
    path[bshm_windows_directory_units(path)] = L'\0';
    return GetDiskFreeSpaceExW(path, &free_bytes, NULL, NULL) ? free_bytes.QuadPart : 0;
}

/* ---------------------------------------------------------------- locks */

static int lock_range(bshm_os_file file, uint64_t first, uint64_t count, bool exclusive)
{
    OVERLAPPED at = at_offset(first);
    DWORD flags = LOCKFILE_FAIL_IMMEDIATELY | (exclusive ? LOCKFILE_EXCLUSIVE_LOCK : 0);
    if (LockFileEx(file, flags, 0, (DWORD)count, (DWORD)(count >> 32), &at))
        return 0;
    DWORD error = GetLastError();
    return error == ERROR_IO_PENDING ? -EAGAIN : bshm_windows_error_of(error);
}

static void unlock_range(bshm_os_file file, uint64_t first, uint64_t count)
{
    OVERLAPPED at = at_offset(first);
    (void)UnlockFileEx(file, 0, (DWORD)count, (DWORD)(count >> 32), &at);
}

int bshm_os_lock(bshm_os_file file, uint64_t byte, bool exclusive)
{
    return lock_range(file, byte, 1, exclusive);
}

int bshm_os_lock_alone(bshm_os_file file, uint64_t byte)
{
    return lock_range(file, byte, 1, true); /* here even a read-only file can have one */
}

void bshm_os_unlock(bshm_os_file file, uint64_t byte)
{
    unlock_range(file, byte, 1);
}

int bshm_os_is_locked(bshm_os_file file, uint64_t byte)
{
    /* Windows has no query: try a shared lock for a moment. It conflicts only with a new owner. */
    int rc = lock_range(file, byte, 1, false);
    if (rc == 0)
        unlock_range(file, byte, 1);
    return rc == -EAGAIN ? 1 : rc;
}

static int range_is_locked(bshm_os_file file, uint64_t first, uint64_t last, bool exclusively)
{
    int rc = lock_range(file, first, last - first + 1, !exclusively);
    if (rc == 0)
        unlock_range(file, first, last - first + 1);
    return rc == -EAGAIN ? 1 : rc;
}

int bshm_os_find_locked(bshm_os_file file, uint64_t first, uint64_t last, bool exclusively, uint64_t *from,
                        uint64_t *to)
{
    int rc = range_is_locked(file, first, last, exclusively);
    while (rc == 1 && first < last) {
        uint64_t middle = first + (last - first) / 2;
        int lower = range_is_locked(file, first, middle, exclusively);
        if (lower < 0)
            return lower;
        if (lower == 1)
            last = middle;
        else
            first = middle + 1;
    }
    *from = *to = first;
    return rc;
}

#endif
