/* fuzz_header.c - any identity, in a file of any size: it must be refused with a message, or everything in it must
 * hold.
 *
 * Input: object bytes (8), choices (1), an identity. Environment: FUZZ_DIRECTORY, the directory of the object.
 */
#include "object.h"

enum choice { SEALS = 1, TAKES_OVER = 2, SHORT = 4 };

struct input {
    uint64_t object_bytes;
    uint8_t choices;
    bshm_identity identity;
} __attribute__((packed));

int LLVMFuzzerInitialize(int *count, char ***arguments);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

int LLVMFuzzerInitialize(int *count, char ***arguments)
{
    (void)count, (void)arguments;
    object_begin(getenv("FUZZ_DIRECTORY"));
    return 0;
}

static void check_as_it_is(const bshm_identity *identity, uint64_t object_bytes)
{
    bshm_error error = {0};
    int rc = bshm_identity_check(identity, object_bytes, "fuzz", &error);
    MUST(rc == BSHM_OK || (rc == BSHM_E_FORMAT && error.message[0] != '\0'));
    if (rc == BSHM_OK)
        object_check_identity(identity, object_bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    struct input input = {.object_bytes = OBJECT_BYTES, .choices = SEALS, .identity = object_original.identity};
    struct object_parts parts = object_original;
    memcpy(&input, data, bytes < sizeof input ? bytes : sizeof input);
    parts.identity = input.identity;
    if (input.choices & SEALS)
        bshm_identity_seal(&parts.identity);
    check_as_it_is(&parts.identity, input.object_bytes);
    object_set(&parts, input.choices & SHORT ? input.object_bytes % BSHM_REGION_BYTES : OBJECT_BYTES);
    object_use((input.choices & TAKES_OVER) && object_is_one_in_16(data, bytes));
    return 0;
}
