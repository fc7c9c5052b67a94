/* windows_security.c - modes as access control lists, owners as numbers.
 *
 * The owner may always read and write. The group's bits of a mode are for all users of the machine, the others' bits
 * for everyone. Administrators and the system take the part of root, with all access. A user's number is a hash of
 * the security identifier, which is unique on the machine; 0 is administrators and system.
 */
#include "../platform.h"
#ifdef _WIN32

#include "windows_security.h"

#include <aclapi.h>
#include <errno.h>
#include <ntsecapi.h>
#include <sddl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SID_UNITS 200 /* as text: at most 15 parts of 10 digits, with separators */

static DWORD user_token(TOKEN_USER *user, DWORD bytes)
{
    HANDLE token;
    DWORD got = 0;
    if (!OpenProcessToken(GetCurrentProcess(), TOKEN_QUERY, &token))
        return 0;
    if (!GetTokenInformation(token, TokenUser, user, bytes, &got))
        got = 0;
    (void)CloseHandle(token);
    return got;
}

typedef union own_user {
    TOKEN_USER user;
    uint8_t bytes[sizeof(TOKEN_USER) + SECURITY_MAX_SID_SIZE];
} own_user;

static int own_sid_text(wchar_t *text)
{
    own_user own;
    wchar_t *converted;
    if (user_token(&own.user, sizeof own) == 0 || !ConvertSidToStringSidW(own.user.User.Sid, &converted))
        return bshm_windows_error();
    int rc = wcslen(converted) < SID_UNITS ? 0 : -EIO;
    if (rc == 0)
        (void)wcscpy_s(text, SID_UNITS, converted);
    (void)LocalFree(converted);
    return rc;
}

static int descriptor_of_text(const wchar_t *text, PSECURITY_DESCRIPTOR *descriptor)
{
    return ConvertStringSecurityDescriptorToSecurityDescriptorW(text, SDDL_REVISION_1, descriptor, NULL)
               ? 0
               : bshm_windows_error();
}

/* "(A;;FRFW;;;BU)" for the three bits of one group of users. */
static void append_party(wchar_t *text, size_t units, uint32_t bits, const wchar_t *party)
{
    size_t used = wcslen(text);
    if (bits & 6)
        (void)swprintf(text + used, units - used, L"(A;;%ls%ls;;;%ls)", bits & 4 ? L"FR" : L"", bits & 2 ? L"FW" : L"",
                       party);
}

int bshm_windows_descriptor_of_mode(uint32_t mode, PSECURITY_DESCRIPTOR *descriptor)
{
    wchar_t sid[SID_UNITS];
    wchar_t text[3 * SID_UNITS];
    int rc = own_sid_text(sid);
    if (rc < 0)
        return rc;
    (void)swprintf(text, sizeof text / sizeof *text, L"O:%lsD:P(A;;FA;;;SY)(A;;FA;;;BA)(A;;FA;;;%ls)", sid, sid);
    append_party(text, sizeof text / sizeof *text, mode >> 3 & 7, L"BU");
    append_party(text, sizeof text / sizeof *text, mode & 7, L"WD");
    return descriptor_of_text(text, descriptor);
}

/* Full access for this user; all others may wait for it, and so learn when a frame arrives, but not its content. */
int bshm_windows_descriptor_of_event(PSECURITY_DESCRIPTOR *descriptor)
{
    wchar_t sid[SID_UNITS];
    wchar_t text[2 * SID_UNITS];
    int rc = own_sid_text(sid);
    if (rc < 0)
        return rc;
    (void)swprintf(text, sizeof text / sizeof *text, L"D:P(A;;GA;;;SY)(A;;GA;;;BA)(A;;GA;;;%ls)(A;;0x100000;;;WD)",
                   sid);
    return descriptor_of_text(text, descriptor);
}

/* FNV-1a, 32 bit, of the identifier's bytes. */
static uint32_t number_of(PSID sid)
{
    if (IsWellKnownSid(sid, WinLocalSystemSid) || IsWellKnownSid(sid, WinBuiltinAdministratorsSid))
        return 0;
    const uint8_t *bytes = sid;
    uint32_t hash = 0x811c9dc5u;
    for (DWORD i = 0; i < GetLengthSid(sid); i++)
        hash = (hash ^ bytes[i]) * 0x01000193u;
    return hash == 0 || hash == UINT32_MAX ? 1 : hash; /* 0 is the system, UINT32_MAX an unknown owner */
}

uint32_t bshm_os_user_id(void)
{
    own_user own;
    return user_token(&own.user, sizeof own) > 0 ? number_of(own.user.User.Sid) : UINT32_MAX - 1;
}

static uint32_t mode_of(PACL list)
{
    uint32_t mode = 0600;
    if (!list)
        return 0666; /* no list: full access for everyone */
    for (DWORD i = 0; i < list->AceCount; i++) {
        ACCESS_ALLOWED_ACE *entry;
        if (!GetAce(list, i, (void **)&entry) || entry->Header.AceType != ACCESS_ALLOWED_ACE_TYPE)
            continue;
        PSID sid = &entry->SidStart;
        uint32_t bits = (entry->Mask & FILE_READ_DATA ? 4u : 0u) | (entry->Mask & FILE_WRITE_DATA ? 2u : 0u);
        if (IsWellKnownSid(sid, WinBuiltinUsersSid))
            mode |= bits << 3;
        else if (IsWellKnownSid(sid, WinWorldSid))
            mode |= bits;
    }
    return mode;
}

void bshm_windows_owner_and_mode(HANDLE file, uint32_t *owner_uid, uint32_t *mode)
{
    PSECURITY_DESCRIPTOR descriptor;
    PSID owner = NULL;
    PACL list = NULL;
    DWORD error = GetSecurityInfo(file, SE_FILE_OBJECT, OWNER_SECURITY_INFORMATION | DACL_SECURITY_INFORMATION, &owner,
                                  NULL, &list, NULL, &descriptor);
    if (error != ERROR_SUCCESS)
        return;
    if (owner)
        *owner_uid = number_of(owner);
    *mode = mode_of(list);
    (void)LocalFree(descriptor);
}

int bshm_os_random(void *buffer, size_t bytes)
{
    return RtlGenRandom(buffer, (ULONG)bytes) ? 0 : -EIO;
}

#endif
