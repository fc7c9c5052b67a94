/* object.h - a segment's file, parts of which a fuzzer replaces, and everything done with such a file: attaching,
 * reading, inspecting, taking over. Results are checked by assertions, memory by the sanitizers. */
#ifndef OBJECT_H
#define OBJECT_H

#include "attachment.h"
#include "protocol.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define OBJECT_SLOTS    5u
#define OBJECT_FRAMES   4u
#define OBJECT_CAPACITY 4096u
#define OBJECT_BYTES ((2 + (uint64_t)BSHM_MAX_SLOTS) * BSHM_REGION_BYTES) /* room for any count of the smallest slots */

#define MUST(holds)                                                                                                    \
    do {                                                                                                               \
        if (!(holds)) {                                                                                                \
            (void)fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #holds);                                  \
            abort();                                                                                                   \
        }                                                                                                              \
    } while (0)

__extension__ typedef unsigned __int128 exact; /* for sums that must not overflow */

/* The parts that can be replaced, as they are in a corpus file. */
struct object_parts {
    bshm_identity identity;
    bshm_publication publication;
    bshm_descriptor descriptors[OBJECT_SLOTS];
    uint64_t pins[OBJECT_SLOTS];
};

static struct object_parts object_original;
static char object_name[256];    /* that readers and writers are given */
static char object_kept_as[264]; /* a second name: a take-over removes the first */
static int object_file = -1;

static inline void object_remove(void)
{
    (void)unlink(object_name);
    (void)unlink(object_kept_as);
}

/* Open files; the same before and after, unless one was left open. */
static inline int object_first_free_file(void)
{
    int file = dup(object_file);
    MUST(file >= 0);
    (void)close(file);
    return file;
}

static inline void object_write_at(uint64_t offset, const void *content, size_t bytes)
{
    MUST(pwrite(object_file, content, bytes, (off_t)offset) == (ssize_t)bytes);
}

static inline bshm_writer *object_writer(bshm_error *error)
{
    bshm_writer *writer = NULL;
    bshm_writer_options options = {.slot_capacity = OBJECT_CAPACITY, .slots = OBJECT_SLOTS, .mode = 0600};
    int rc = bshm_writer_create(&writer, object_name, &options, error);
    MUST(rc <= 0);
    return rc == BSHM_OK ? writer : NULL;
}

static inline uint64_t object_put(bshm_writer *writer)
{
    static const uint8_t pixels[64 * 64];
    bshm_frame_info info = {.width = 64, .height = 64, .channels = 1, .item_size = 1, .ndim = 2, .kind = 'u'};
    uint64_t sequence = 0;
    bshm_error error;
    MUST(bshm_writer_write(writer, &info, pixels, 64, &sequence, &error) == BSHM_OK);
    return sequence;
}

/* The segment of a killed writer, large enough for any number of slots. */
static inline void object_begin(const char *directory)
{
    bshm_error error;
    (void)snprintf(object_name, sizeof object_name, "%s/fuzz-%d", directory, (int)getpid());
    (void)snprintf(object_kept_as, sizeof object_kept_as, "%s.kept", object_name);
    (void)atexit(object_remove);
    bshm_writer *writer = object_writer(&error);
    MUST(writer);
    for (unsigned i = 0; i < OBJECT_FRAMES; i++)
        (void)object_put(writer);
    uint8_t *content = calloc(1, OBJECT_BYTES);
    int living = open(object_name, O_RDONLY | O_CLOEXEC);
    MUST(content && living >= 0 && read(living, content, OBJECT_BYTES) > 0);
    (void)close(living);
    bshm_writer_free(writer);
    object_file = open(object_kept_as, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600);
    MUST(object_file >= 0);
    uint32_t live = BSHM_STATE_LIVE;
    memcpy(content + BSHM_PUBLICATION_OFFSET + offsetof(bshm_publication, state), &live, sizeof live);
    object_write_at(0, content, OBJECT_BYTES);
    memcpy(&object_original.identity, content, sizeof object_original.identity);
    memcpy(&object_original.publication, content + BSHM_PUBLICATION_OFFSET, sizeof object_original.publication);
    memcpy(&object_original.descriptors, content + BSHM_DESCRIPTOR_OFFSET, sizeof object_original.descriptors);
    free(content);
}

static inline void object_set(const struct object_parts *parts, uint64_t object_bytes)
{
    static const uint8_t no_readers[BSHM_READER_TABLE_OFFSET + sizeof(bshm_reader_entry)];
    MUST(ftruncate(object_file, (off_t)object_bytes) == 0);
    if (object_bytes < OBJECT_BYTES / 2) {
        struct object_parts cut = *parts;
        size_t bytes = object_bytes < sizeof cut.identity ? (size_t)object_bytes : sizeof cut.identity;
        object_write_at(0, &cut.identity, bytes);
        return;
    }
    object_write_at(0, &parts->identity, sizeof parts->identity);
    object_write_at(BSHM_PUBLICATION_OFFSET, &parts->publication, sizeof parts->publication);
    object_write_at(BSHM_DESCRIPTOR_OFFSET, parts->descriptors, sizeof parts->descriptors);
    object_write_at(BSHM_REGION_BYTES, no_readers, sizeof no_readers);
    for (uint32_t slot = 0; slot < OBJECT_SLOTS; slot++)
        object_write_at(BSHM_REGION_BYTES + slot * sizeof(bshm_pin), &parts->pins[slot], sizeof parts->pins[slot]);
}

/* Checks all that readers rely on once an identity has passed. */
static inline void object_check_identity(const bshm_identity *identity, uint64_t object_bytes)
{
    exact end = (exact)identity->pixels_offset + (exact)identity->slot_count * identity->slot_stride;
    MUST(memcmp(identity->magic, BSHM_MAGIC, sizeof identity->magic) == 0);
    MUST(identity->slot_count >= BSHM_MIN_SLOTS && identity->slot_count <= BSHM_MAX_SLOTS);
    MUST(identity->slot_capacity > 0 && identity->slot_capacity <= identity->slot_stride);
    MUST(identity->slot_stride % BSHM_REGION_BYTES == 0);
    MUST(identity->control_offset >= sizeof(bshm_header));
    MUST(identity->control_offset % BSHM_REGION_BYTES == 0 && identity->pixels_offset % BSHM_REGION_BYTES == 0);
    MUST((exact)identity->control_offset + sizeof(bshm_control) <= identity->pixels_offset);
    MUST(end == identity->total_bytes && end <= object_bytes);
}

static inline uint64_t object_row_bytes(const bshm_frame_info *info)
{
    return (uint64_t)info->width * info->channels * info->item_size;
}

static inline void object_check_info(const bshm_frame_info *info, uint64_t slot_capacity)
{
    exact row = (exact)info->width * info->channels * info->item_size;
    MUST(row > 0 && info->height > 0 && row <= info->row_stride);
    MUST((exact)info->row_stride * (info->height - 1) + row <= info->payload_bytes);
    MUST(info->payload_bytes <= slot_capacity);
}

static inline void object_check_frame(const bshm_frame *frame)
{
    const bshm_identity *identity = &frame->attachment->identity;
    uint64_t row = object_row_bytes(&frame->info);
    uint64_t bytes = row * frame->info.height;
    MUST(frame->slot < identity->slot_count);
    object_check_info(&frame->info, identity->slot_capacity);
    if (frame->pinned) { /* all bytes of each row exist */
        const volatile uint8_t *pixels = frame->pixels;
        for (uint64_t y = 0; y < frame->info.height; y++)
            (void)(pixels[y * frame->info.row_stride] + pixels[y * frame->info.row_stride + row - 1]);
    }
    uint8_t *copy = malloc((size_t)bytes); /* exactly, so that reading one byte too many is noticed */
    if (copy) {
        int rc = bshm_frame_copy(frame, copy, bytes);
        MUST(rc == BSHM_OK || rc == BSHM_E_TORN);
        MUST(bytes == 0 || bshm_frame_copy(frame, copy, bytes - 1) < 0);
    }
    free(copy);
    (void)bshm_frame_intact(frame);
}

static inline void object_read(uint32_t flags)
{
    bshm_error error = {0};
    bshm_reader *reader;
    bshm_frame frame;
    bshm_source_view source;
    bshm_reader_options options = {.max_leases = 1};
    MUST(bshm_reader_create(&reader, object_name, &options, &error) == BSHM_OK);
    int rc = bshm_reader_acquire(reader, flags, &frame, &error);
    MUST(rc <= BSHM_FOUND && (rc >= 0 || error.message[0] != '\0'));
    if (rc == BSHM_FOUND) {
        object_check_frame(&frame);
        bshm_frame_release(&frame);
    }
    (void)bshm_reader_source(reader, &source);
    (void)bshm_reader_status(reader);
    (void)bshm_reader_ended(reader);
    bshm_reader_free(reader);
}

static inline void object_inspect(void)
{
    static bshm_inspection inspection;
    bshm_error error = {0};
    if (bshm_inspect(object_name, NULL, &inspection, &error) == BSHM_OK && inspection.has_frame)
        object_check_info(&inspection.frame, inspection.identity.slot_capacity);
}

/* A successor's numbers are valid, and above any published one. */
static inline void object_take_over(void)
{
    bshm_error error = {0};
    bshm_writer *writer = object_writer(&error);
    MUST(writer || error.message[0] != '\0');
    if (!writer)
        return;
    uint64_t sequence = object_put(writer);
    MUST(sequence >= 1 && sequence <= BSHM_MAX_SEQUENCE + 1);
    bshm_writer_free(writer);
}

/* For slow checks: decides by the input alone, so that the same input gives the same result. */
static inline bool object_is_one_in_16(const uint8_t *data, size_t bytes)
{
    unsigned sum = 0;
    for (size_t i = 0; i < bytes; i++)
        sum += data[i];
    return sum % 16 == 0;
}

/* All that can be done with an object under a name. */
static inline void object_use(bool takes_over)
{
    int first_free = object_first_free_file();
    (void)unlink(object_name);
    MUST(link(object_kept_as, object_name) == 0);
    object_read(0);
    object_read(BSHM_ACQUIRE_COPY | BSHM_ACQUIRE_SEEN);
    object_inspect();
    if (takes_over)
        object_take_over();
    MUST(object_first_free_file() == first_free);
}

#endif
