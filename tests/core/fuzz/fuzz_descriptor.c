/* fuzz_descriptor.c - any publication, descriptors and pins after a valid identity: the result must be an error,
 * nothing, or a frame inside its slot.
 *
 * Input: capacity (8), choices (1), publication, descriptors, pins. Environment: see fuzz_header.c.
 */
#include "copy.h"
#include "object.h"

#define CAPACITY_MOST      (UINT64_C(1) << 41) /* limits of an identity */
#define CAPACITY_ALLOCATED 65536u

enum choice { TAKES_OVER = 1, CONSISTENT = 2 };

struct input {
    uint64_t capacity;
    uint8_t choices;
    bshm_publication publication;
    bshm_descriptor descriptors[OBJECT_SLOTS];
    uint64_t pins[OBJECT_SLOTS];
} __attribute__((packed));

int LLVMFuzzerInitialize(int *count, char ***arguments);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static struct input original_input(void)
{
    struct input input = {
        .capacity = OBJECT_CAPACITY, .choices = CONSISTENT, .publication = object_original.publication};
    memcpy(input.descriptors, object_original.descriptors, sizeof input.descriptors);
    return input;
}

int LLVMFuzzerInitialize(int *count, char ***arguments)
{
    (void)count, (void)arguments;
    object_begin(getenv("FUZZ_DIRECTORY"));
    return 0;
}

/* Reads a frame that passed the check row by row, from memory of exactly the slot's capacity. */
static void check_as_it_is(const bshm_frame_info *info, uint64_t capacity)
{
    bshm_error error = {0};
    int rc = bshm_info_check(info, capacity, "fuzz", &error);
    MUST(rc == BSHM_OK || (rc == BSHM_E_FORMAT && error.message[0] != '\0'));
    if (rc < 0)
        return;
    object_check_info(info, capacity);
    if (capacity > CAPACITY_ALLOCATED)
        return;
    uint64_t row = object_row_bytes(info);
    uint8_t *slot = calloc(1, (size_t)capacity);
    uint8_t *copy = malloc((size_t)(row * info->height));
    MUST(slot && copy);
    bshm_copy_rows(copy, (size_t)row, slot, (ptrdiff_t)info->row_stride, (size_t)row, info->height);
    free(copy);
    free(slot);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    struct input input = original_input();
    struct object_parts parts = object_original;
    bshm_frame_info info;
    memcpy(&input, data, bytes < sizeof input ? bytes : sizeof input);
    parts.publication = input.publication;
    memcpy(parts.descriptors, input.descriptors, sizeof parts.descriptors);
    memcpy(parts.pins, input.pins, sizeof parts.pins);
    uint32_t slot = BSHM_LATEST_SLOT(parts.publication.latest.shared);
    if ((input.choices & CONSISTENT) && slot < OBJECT_SLOTS) /* otherwise few inputs would reach the descriptor */
        parts.descriptors[slot].seq.shared = 2 * BSHM_LATEST_SEQUENCE(parts.publication.latest.shared);
    memcpy(&info, parts.descriptors[slot % OBJECT_SLOTS].info, sizeof info);
    check_as_it_is(&info, input.capacity % (CAPACITY_MOST + 1));
    object_set(&parts, OBJECT_BYTES);
    object_use((input.choices & TAKES_OVER) && object_is_one_in_16(data, bytes));
    return 0;
}
