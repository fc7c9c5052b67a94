/* errors.c - codes and their messages. */
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L /* for strerror_r, also with -std=c11 */
#endif

#include "errors.h"

#include "platform.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

const char *bshm_code_name(int code)
{
    static const char *const names[BSHM_CODE_COUNT] = {
        "ok",        "bad name", "not found", "bad format",   "writer exists", "memory full",  "permission denied",
        "bad shape", "loan",     "closed",    "bad argument", "out of memory", "system error", "torn",
    };
    return code <= 0 && code > -BSHM_CODE_COUNT ? names[-code] : "unknown code";
}

int bshm_fail(bshm_error *error, int code, const char *format, ...)
{
    if (error) {
        va_list arguments;
        error->code = code;
        error->system_errno = 0;
        va_start(arguments, format);
        (void)vsnprintf(error->message, sizeof error->message, format, arguments);
        va_end(arguments);
    }
    return code;
}

static const char *describe(int positive_errno, char *buffer, size_t bytes)
{
    /* strerror_r has two incompatible versions; strerror is not thread-safe. */
#if defined(_WIN32)
    return strerror_s(buffer, bytes, positive_errno) == 0 ? buffer : "unknown error";
#elif defined(__GLIBC__) && defined(_GNU_SOURCE)
    return strerror_r(positive_errno, buffer, bytes);
#else
    return strerror_r(positive_errno, buffer, bytes) == 0 ? buffer : "unknown error";
#endif
}

int bshm_fail_system(bshm_error *error, int negative_errno, const char *action, const char *path)
{
    char text[128];
    int code = BSHM_E_SYSTEM;
    const char *advice = "";
    switch (-negative_errno) {
    case ENOENT:
        code = BSHM_E_NOT_FOUND;
        break;
    case EACCES:
    case EPERM:
    case EROFS:
        code = BSHM_E_PERMISSION;
        advice =
            "; check owner, group and mode (the writer's `mode` and `group`, or `capture --mode 0640 --group NAME`)";
        break;
    case ENOMEM:
        code = BSHM_E_MEMORY;
        break;
    case ENOSYS:
        advice = "; this needs " BSHM_OS_NEEDS;
        break;
    case EMFILE:
    case ENFILE:
        advice = "; close some files, or raise the limit (ulimit -n)";
        break;
    default:
        break;
    }
    bshm_fail(error, code, "cannot %s '%s': %s%s", action, path, describe(-negative_errno, text, sizeof text), advice);
    if (error)
        error->system_errno = -negative_errno;
    return code;
}
