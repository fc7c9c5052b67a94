/* errors.h - how functions of the core fail: a code to return, and a message with what was found, what was expected
 * and what to do. */
#ifndef BSHM_ERRORS_H
#define BSHM_ERRORS_H

#include "billiards_shm.h"

/* Two results that functions inside the core have besides those of enum bshm_code. */
#define BSHM_AGAIN  1 /* the name or the object changed in the meantime: start over */
#define BSHM_NO_PIN 2 /* no token was free, or the slot was being written at every attempt: copy without a pin */

/* Both return the code. `error` may be null. */
#if defined(__GNUC__)
__attribute__((format(printf, 3, 4)))
#endif
int bshm_fail(bshm_error *error, int code, const char *format, ...);

/* Message: "cannot <action> '<path>': <what the system says>". Not found, permission and out of memory have their own
 * codes. */
int bshm_fail_system(bshm_error *error, int negative_errno, const char *action, const char *path);

#endif
