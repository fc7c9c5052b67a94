/* Every call of the platform layer, and every allocation, fails once, in every operation that makes it. The operation
 * then fails with a message, or works without; it leaves nothing behind, and the next attempt succeeds.
 *
 * Linked with --wrap for each of these functions (test_c_core.py), so that the core's calls come here first.
 */
#include "fixture.h"
#include "names.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

static unsigned calls, failing; /* number of the call that fails; 0: none */
static int failure;             /* with this errno */
static const char *failed_call;

static bool fails(const char *name)
{
    if (++calls != failing)
        return false;
    failed_call = name;
    return true;
}

/* `on_failure`: what the function does to its results when it fails. __typeof__ makes the compiler compare the
 * parameters with the header's. */
#define WRAPPED(name, parameters, arguments, on_failure)                                                               \
    extern __typeof__(name) __real_##name;                                                                             \
    extern __typeof__(name) __wrap_##name;                                                                             \
    int __wrap_##name parameters                                                                                       \
    {                                                                                                                  \
        if (!fails(#name))                                                                                             \
            return __real_##name arguments;                                                                            \
        on_failure;                                                                                                    \
        return -failure;                                                                                               \
    }

WRAPPED(bshm_os_create, (const char *path, bshm_os_file *file), (path, file), *file = BSHM_OS_NO_FILE)
WRAPPED(bshm_os_set_mode, (bshm_os_file file, uint32_t mode), (file, mode), (void)file)
WRAPPED(bshm_os_set_group, (bshm_os_file file, uint32_t gid), (file, gid), (void)file)
WRAPPED(bshm_os_open, (const char *path, enum bshm_os_access access, bshm_os_file *file), (path, access, file),
        *file = BSHM_OS_NO_FILE)
WRAPPED(bshm_os_info_of, (bshm_os_file file, bshm_os_info *info), (file, info), (void)info)
WRAPPED(bshm_os_info_at, (const char *path, bshm_os_info *info), (path, info), (void)info)
WRAPPED(bshm_os_resize, (bshm_os_file file, uint64_t bytes), (file, bytes), (void)file)
WRAPPED(bshm_os_read, (bshm_os_file file, void *buffer, size_t bytes, uint64_t offset), (file, buffer, bytes, offset),
        (void)file)
WRAPPED(bshm_os_rename, (const char *from, const char *to, bool replace), (from, to, replace), (void)from)
WRAPPED(bshm_os_unlink, (const char *path), (path), (void)path)
WRAPPED(bshm_os_check_file_system, (bshm_os_file file, const char **kind), (file, kind), *kind = "some file system")
WRAPPED(bshm_os_allocate, (bshm_os_file file, uint64_t offset, uint64_t bytes), (file, offset, bytes), (void)file)
WRAPPED(bshm_os_punch, (bshm_os_file file, uint64_t offset, uint64_t bytes), (file, offset, bytes), (void)file)
WRAPPED(bshm_os_map, (bshm_os_file file, uint64_t offset, size_t bytes, unsigned flags, void **address),
        (file, offset, bytes, flags, address), *address = NULL)
WRAPPED(bshm_os_prefault, (void *address, size_t bytes, bool write), (address, bytes, write), (void)address)
WRAPPED(bshm_os_lock, (bshm_os_file file, uint64_t byte, bool exclusive), (file, byte, exclusive), (void)file)
WRAPPED(bshm_os_lock_alone, (bshm_os_file file, uint64_t byte), (file, byte), (void)file)
WRAPPED(bshm_os_random, (void *buffer, size_t bytes), (buffer, bytes), (void)buffer)

static unsigned allocations; /* not freed yet */

extern __typeof__(malloc) __real_malloc;
extern __typeof__(malloc) __wrap_malloc;
void *__wrap_malloc(size_t bytes)
{
    void *made = fails("malloc") ? NULL : __real_malloc(bytes);
    allocations += made != NULL;
    return made;
}

extern __typeof__(calloc) __real_calloc;
extern __typeof__(calloc) __wrap_calloc;
void *__wrap_calloc(size_t count, size_t bytes)
{
    void *made = fails("calloc") ? NULL : __real_calloc(count, bytes);
    allocations += made != NULL;
    return made;
}

extern __typeof__(free) __real_free;
extern __typeof__(free) __wrap_free;
void __wrap_free(void *made)
{
    allocations -= made != NULL;
    __real_free(made);
}

extern __typeof__(madvise) __real_madvise;
extern __typeof__(madvise) __wrap_madvise;
int __wrap_madvise(void *address, size_t bytes, int advice)
{
    if (!fails("madvise"))
        return __real_madvise(address, bytes, advice);
    errno = failure;
    return -1;
}

static unsigned fallocates, fallocates_that_fail_from; /* 0: none */

extern __typeof__(fallocate64) __real_fallocate64;
extern __typeof__(fallocate64) __wrap_fallocate64;
int __wrap_fallocate64(int file, int mode, off64_t offset, off64_t bytes)
{
    if (++fallocates >= fallocates_that_fail_from && fallocates_that_fail_from > 0 && mode == 0) {
        errno = ENOSPC;
        return -1;
    }
    return __real_fallocate64(file, mode, offset, bytes);
}

static unsigned questions_of_room, full_from; /* 0: never */

extern __typeof__(fstatvfs64) __real_fstatvfs64;
extern __typeof__(fstatvfs64) __wrap_fstatvfs64;
int __wrap_fstatvfs64(int file, struct statvfs64 *status)
{
    int rc = __real_fstatvfs64(file, status);
    if (++questions_of_room >= full_from && full_from > 0) {
        status->f_blocks = 1; /* a limit, where there is none */
        status->f_bfree = 0;
    }
    return rc;
}

/* ---------------------------------------------------------------- what must not be left behind */

static char directory[200]; /* private to this program, so that temporaries left behind are noticed */

typedef struct belongings {
    unsigned files, mappings, names, allocations;
    uint64_t allocated_bytes; /* of all files in the directory */
} belongings;

static belongings take_stock(void)
{
    char line[1024];
    belongings now = {.allocations = allocations};
    DIR *names = opendir(directory);
    REQUIRE(names != NULL);
    for (struct dirent *entry = readdir(names); entry; entry = readdir(names)) {
        bshm_os_info info;
        (void)snprintf(line, sizeof line, "%s/%s", directory, entry->d_name);
        now.names++;
        if ((__real_bshm_os_info_at)(line, &info) == 0 && info.regular)
            now.allocated_bytes += info.allocated_bytes;
    }
    (void)closedir(names);
    DIR *files = opendir("/proc/self/fd");
    FILE *maps = fopen("/proc/self/maps", "r");
    REQUIRE(files != NULL && maps != NULL);
    while (readdir(files))
        now.files++;
    while (fgets(line, sizeof line, maps))
        now.mappings += strstr(line, bshm_object_directory()) != NULL;
    (void)fclose(maps);
    (void)closedir(files);
    return now;
}

/* ---------------------------------------------------------------- operations */

typedef struct participants {
    bshm_writer *writer;
    bshm_reader *reader;
    bshm_frame held[4];
    unsigned held_count;
} participants;

static bshm_writer *create(bshm_error *error)
{
    bshm_writer *writer = NULL;
    bshm_writer_options options = {
        .slot_capacity = FRAME_BYTES, .slots = 5, .mode = 0640, .set_group = 1, .group = getgid()};
    *error = (bshm_error){0};
    int rc = bshm_writer_create(&writer, fixture_name, &options, error);
    CHECK((rc == BSHM_OK) == (writer != NULL));
    return writer;
}

static int write_one(bshm_writer *writer, uint32_t height, bshm_error *error)
{
    static uint8_t pixels[100 * FRAME_BYTES];
    uint64_t sequence = 0;
    bshm_frame_info info = picture(height);
    return bshm_writer_write(writer, &info, pixels, WIDTH, &sequence, error);
}

static void nothing(participants *all)
{
    (void)all;
}

static void a_dead_writer(participants *all)
{
    (void)all;
    leave_dead_segment(4, 4);
}

static void a_writer(participants *all)
{
    all->writer = new_writer(5);
    (void)put(all->writer);
}

static window looked_at;

/* Its reader has read frame 1 of 4, and only that frame's slot is mapped. */
static void a_history(participants *all)
{
    all->writer = new_writer_with_history(5, 3);
    looked_at = open_window();
    (void)put(all->writer);
    all->reader = new_reader(2);
    bshm_frame frame = newest(all->reader);
    bshm_frame_release(&frame);
    for (int i = 0; i < 3; i++)
        (void)put(all->writer);
}

/* The next frame needs a fourth slot. */
static void every_backed_slot_held(participants *all)
{
    a_writer(all);
    all->reader = new_reader(3);
    for (int i = 0; i < 3; i++) {
        all->held[all->held_count++] = newest(all->reader);
        if (i < 2)
            (void)put(all->writer);
    }
}

static int creates(participants *all, bshm_error *error)
{
    all->writer = create(error);
    return all->writer ? 0 : error->code;
}

static int writes(participants *all, bshm_error *error)
{
    return write_one(all->writer, HEIGHT, error);
}

static int replaces(participants *all, bshm_error *error)
{
    return write_one(all->writer, 60 * HEIGHT, error);
}

static int reads(participants *all, bshm_error *error)
{
    uint8_t pixels[FRAME_BYTES];
    bshm_frame frame = {0};
    bshm_reader_options options = {.max_leases = 2};
    int rc = bshm_reader_create(&all->reader, fixture_name, &options, error);
    if (rc < 0)
        return rc;
    rc = bshm_reader_acquire(all->reader, 0, &frame, error);
    if (rc != BSHM_FOUND)
        return rc;
    rc = bshm_frame_copy(&frame, pixels, sizeof pixels);
    CHECK(rc == BSHM_OK || rc == BSHM_E_TORN);
    bshm_frame_release(&frame);
    bshm_reader_wait(all->reader, 1); /* maps the other slots */
    return 0;
}

/* Frames 2 and 3 in turn, 4 by its number, 1 by its time: each in its own slot, which is mapped now. */
static int reads_the_window(participants *all, bshm_error *error)
{
    int rc = BSHM_FOUND;
    for (unsigned i = 0; i < 4 && rc == BSHM_FOUND; i++) {
        bshm_frame frame = {0};
        if (i < 2)
            rc = bshm_reader_acquire_next(all->reader, 0, &frame, error);
        else if (i == 2)
            rc = bshm_reader_acquire_number(all->reader, 4, 0, &frame, error);
        else
            rc = bshm_reader_acquire_nearest(all->reader, 1, BSHM_ACQUIRE_COPY, &frame, error);
        CHECK(rc < 0 || rc == BSHM_FOUND);
        if (rc == BSHM_FOUND)
            CHECK_EQUAL(frame.info.sequence, i < 3 ? i + 2 : 1);
        bshm_frame_release(&frame);
        CHECK_EQUAL(pinned_slots(&looked_at, 8), 0);
    }
    close_window(&looked_at);
    if (rc < 0 && failing > 0) { /* as before: the same call returns the frame */
        bshm_error ignored;
        bshm_frame frame = {0};
        failing = 0;
        CHECK_EQUAL(bshm_reader_acquire_number(all->reader, 4, 0, &frame, &ignored), BSHM_FOUND);
        bshm_frame_release(&frame);
    }
    return rc < 0 ? rc : 0;
}

static int cleans(participants *all, bshm_error *error)
{
    (void)all;
    return bshm_remove_stale(fixture_name, NULL, error);
}

static int inspects(participants *all, bshm_error *error)
{
    static bshm_inspection inspection;
    (void)all;
    return bshm_inspect(fixture_name, NULL, &inspection, error);
}

static void end(participants *all)
{
    while (all->held_count > 0)
        bshm_frame_release(&all->held[--all->held_count]);
    bshm_reader_free(all->reader);
    bshm_writer_free(all->writer);
    *all = (participants){0};
}

/* ---------------------------------------------------------------- one failure at a time */

static const int failures[] = {ENOSPC, EACCES, ENOENT, EAGAIN};

typedef void (*preparation)(participants *);
typedef int (*operation)(participants *, bshm_error *);

/* False: the operation makes no call of that number. */
static bool fail_one(const char *what, unsigned which, preparation prepare, operation operate)
{
    participants all = {0};
    bshm_error error = {0};
    unsigned failures_before = check_failures_so_far();
    prepare(&all);
    belongings before = take_stock();
    failed_call = NULL;
    calls = 0;
    failing = which;
    int rc = operate(&all, &error);
    failing = 0;
    if (rc < 0) {
        CHECK_EQUAL(error.code, rc);
        CHECK(strlen(error.message) > 0);
    }
    bool failed = rc < 0 || (rc == BSHM_DROPPED && operate == writes);
    if (failed && operate != reads &&
        operate != reads_the_window) { /* a reader that failed still exists and can try again */
        belongings after = take_stock();
        CHECK_EQUAL(after.files, before.files);
        CHECK_EQUAL(after.mappings, before.mappings);
        CHECK_EQUAL(after.names, before.names);
        CHECK_EQUAL(after.allocations, before.allocations);
        CHECK(after.allocated_bytes <= before.allocated_bytes);
    }
    if (check_failures_so_far() != failures_before)
        printf("    %s, call %u, %s, errno %d: returned %d, \"%s\"\n", what, which, failed_call ? failed_call : "none",
               failure, rc, error.message);
    if (all.writer) { /* works as if nothing had happened */
        rc = write_one(all.writer, HEIGHT, &error);
        CHECK(rc == BSHM_OK || rc == BSHM_DROPPED);
    }
    end(&all);
    bshm_writer *next = create(&error); /* the name is free, and so is its lock */
    CHECK(next != NULL);
    bshm_writer_free(next);
    return failed_call != NULL;
}

static void fail_each(const char *what, preparation prepare, operation operate)
{
    belongings before = take_stock();
    unsigned tried = 0;
    for (size_t i = 0; i < sizeof failures / sizeof failures[0]; i++) {
        failure = failures[i];
        for (unsigned which = 1; fail_one(what, which, prepare, operate); which++)
            tried++;
    }
    belongings after = take_stock();
    CHECK_EQUAL(after.files, before.files);
    CHECK_EQUAL(after.mappings, before.mappings);
    CHECK_EQUAL(after.names, before.names);
    CHECK_EQUAL(after.allocations, before.allocations);
    printf("    %u failures\n", tried);
}

static void creating_may_fail_anywhere(void)
{
    fail_each("creating", nothing, creates);
}

static void taking_over_may_fail_anywhere(void)
{
    fail_each("taking over", a_dead_writer, creates);
}

static void backing_a_slot_may_fail_anywhere(void)
{
    fail_each("growing", every_backed_slot_held, writes);
}

static void replacing_may_fail_anywhere(void)
{
    fail_each("replacing", a_writer, replaces);
}

static void attaching_and_reading_may_fail_anywhere(void)
{
    fail_each("reading", a_writer, reads);
}

static void reading_the_window_may_fail_anywhere(void)
{
    fail_each("reading the window", a_history, reads_the_window);
}

static void cleaning_may_fail_anywhere(void)
{
    fail_each("cleaning", a_dead_writer, cleans);
}

static void inspecting_may_fail_anywhere(void)
{
    fail_each("inspecting", a_writer, inspects);
}

/* ---------------------------------------------------------------- what a failure means */

/* Sets up again for each call, until the failing call is this function's. */
static int fail_at(const char *call, int how, preparation prepare, operation operate, participants *all,
                   bshm_error *error)
{
    failure = how;
    for (unsigned which = 1;; which++) {
        prepare(all);
        calls = 0;
        failed_call = NULL;
        failing = which;
        int rc = operate(all, error);
        failing = 0;
        REQUIRE(failed_call != NULL); /* null: the operation makes no such call */
        if (strcmp(failed_call, call) == 0)
            return rc;
        end(all);
    }
}

static void a_slot_that_cannot_be_backed_drops_the_frame_and_names_the_bytes(void)
{
    participants all = {0};
    bshm_error error = {0};
    CHECK_EQUAL(fail_at("bshm_os_allocate", ENOSPC, every_backed_slot_held, writes, &all, &error), BSHM_DROPPED);
    CHECK_EQUAL(error.code, BSHM_E_FULL);
    CHECK_CONTAINS(error.message, "65536");
    CHECK_EQUAL(counters_of(all.writer).statistics.dropped.shared, 1);
    CHECK_EQUAL(counters_of(all.writer).sequence, 3);
    bshm_loan loan;
    bshm_frame_info info = picture(HEIGHT);
    CHECK_EQUAL(bshm_writer_loan(all.writer, &info, &loan, &error), 1); /* not tried again so soon: the same result */
    CHECK_EQUAL(error.code, BSHM_E_FULL);
    CHECK_CONTAINS(error.message, "65536");
    CHECK_EQUAL(counters_of(all.writer).statistics.dropped.shared, 2);
    bshm_frame_release(&all.held[--all.held_count]);
    bshm_frame_release(&all.held[--all.held_count]);
    CHECK_EQUAL(put(all.writer), 4); /* a slot is free again, and no number was used up */
    CHECK_EQUAL(counters_of(all.writer).statistics.backed_slots.shared, 3);
    end(&all);
}

/* Two readers had the two older frames; one of them was killed. */
static void two_slots_pinned_one_by_the_dead(participants *all)
{
    all->writer = new_writer(5);
    all->reader = new_reader(1);
    (void)put(all->writer);
    all->held[all->held_count++] = newest(all->reader);
    (void)put(all->writer);
    window shared = open_window();
    CHECK(bshm_step_pin(shared.control, latest_slot(&shared), 1));
    close_window(&shared);
    (void)put(all->writer);
}

static void a_slot_that_cannot_be_backed_is_taken_from_the_dead(void)
{
    participants all = {0};
    bshm_error error = {0};
    CHECK_EQUAL(fail_at("bshm_os_allocate", ENOSPC, two_slots_pinned_one_by_the_dead, writes, &all, &error), BSHM_OK);
    CHECK_EQUAL(counters_of(all.writer).sequence, 4);
    CHECK_EQUAL(counters_of(all.writer).statistics.dropped.shared, 0);
    CHECK_EQUAL(counters_of(all.writer).statistics.leases_broken.shared, 0);
    CHECK(is_whole(&all.held[0]) && bshm_frame_intact(&all.held[0]));
    end(&all);
}

static void no_memory_for_a_segment_is_an_error_that_names_the_bytes(void)
{
    participants all = {0};
    bshm_error error = {0};
    CHECK_EQUAL(fail_at("bshm_os_allocate", ENOSPC, nothing, creates, &all, &error), BSHM_E_FULL);
    CHECK_CONTAINS(error.message, "327680"); /* header, control region and three slots */
    CHECK_EQUAL(error.system_errno, ENOSPC);
    end(&all);
}

static void a_segment_without_memory_behind_it_is_refused_before_it_is_touched(void)
{
    participants all = {0};
    bshm_error error = {0};
    CHECK_EQUAL(fail_at("bshm_os_prefault", EFAULT, a_writer, reads, &all, &error), BSHM_E_FORMAT);
    CHECK_CONTAINS(error.message, fixture_name);
    end(&all);
}

/* It would take every page and release them again; a neighbour that touches its own in between would die of SIGBUS. */
static void a_segment_that_cannot_fit_is_refused_without_taking_a_page(void)
{
    bshm_os_file file;
    REQUIRE(bshm_os_create(fixture_path(), &file) == 0);
    uint64_t bytes = bshm_os_free_bytes(file) + (UINT64_C(64) << 20);
    REQUIRE(bshm_os_resize(file, bytes) == 0);
    fallocates = 0;
    CHECK_EQUAL(bshm_os_allocate(file, 0, bytes), -ENOSPC);
    CHECK_EQUAL(fallocates, 0);
    CHECK_EQUAL(bshm_os_allocate(file, 0, 65536), 0);
    CHECK(fallocates > 0);
    bshm_os_close(file);
    (void)bshm_os_unlink(fixture_path());
}

/* Another process takes the last pages between the question and the allocation. */
static void an_allocation_that_fails_in_its_middle_keeps_nothing(void)
{
    bshm_os_file file;
    bshm_os_info info;
    uint64_t bytes = UINT64_C(16) << 20;
    REQUIRE(bshm_os_create(fixture_path(), &file) == 0 && bshm_os_resize(file, bytes) == 0);
    fallocates = 0;
    fallocates_that_fail_from = 3;
    CHECK_EQUAL(bshm_os_allocate(file, 0, bytes), -ENOSPC);
    fallocates_that_fail_from = 0;
    CHECK(fallocates >= 3);
    CHECK_EQUAL(bshm_os_info_of(file, &info), 0);
    CHECK_EQUAL(info.allocated_bytes, 0);
    bshm_os_close(file);
    (void)bshm_os_unlink(fixture_path());
}

/* Going on to the last page would leave none to the other process. */
static void an_allocation_interrupted_by_another_stops_immediately_and_keeps_nothing(void)
{
    bshm_os_file file;
    bshm_os_info info;
    uint64_t bytes = UINT64_C(16) << 20;
    REQUIRE(bshm_os_create(fixture_path(), &file) == 0 && bshm_os_resize(file, bytes) == 0);
    for (full_from = 1; full_from <= 6; full_from++) {
        questions_of_room = 0;
        CHECK_EQUAL(bshm_os_allocate(file, 0, bytes), -ENOSPC);
        CHECK_EQUAL(bshm_os_info_of(file, &info), 0);
        CHECK_EQUAL(info.allocated_bytes, 0);
    }
    full_from = 0;
    CHECK_EQUAL(bshm_os_allocate(file, 0, bytes), 0);
    bshm_os_close(file);
    (void)bshm_os_unlink(fixture_path());
}

static void missing_memory_is_noticed_before_it_is_touched(void)
{
    bshm_os_file file;
    void *address;
    REQUIRE(bshm_os_create(fixture_path(), &file) == 0);
    REQUIRE(bshm_os_map(file, 0, BSHM_REGION_BYTES, BSHM_OS_MAP_WRITE, &address) == 0); /* of a file without bytes */
    CHECK_EQUAL(bshm_os_prefault(address, BSHM_REGION_BYTES, true), -EFAULT);
    CHECK_EQUAL(bshm_os_prefault(address, BSHM_REGION_BYTES, false), -EFAULT);
    bshm_os_unmap(address, BSHM_REGION_BYTES);
    bshm_os_close(file);
    (void)bshm_os_unlink(fixture_path());
}

static window dead;
static bshm_os_file dead_file = BSHM_OS_NO_FILE;

static bool pinning_reader_lives;

/* Frames 2, 3 and 4 in three slots; a reader, killed or not, has the slot of 2. */
static void a_dead_writer_with_a_frame_that_is_pinned(participants *all)
{
    int status;
    (void)all;
    if (dead.header)
        close_window(&dead);
    bshm_os_close(dead_file);
    (void)bshm_os_unlink(fixture_path());
    (void)fflush(stdout);
    pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        bshm_writer *writer = new_writer(4);
        (void)put(writer);
        (void)put(writer);
        window shared = open_window();
        CHECK(bshm_step_pin(shared.control, latest_slot(&shared), 1));
        (void)put(writer);
        (void)put(writer);
        _exit(check_failures_so_far() != 0);
    }
    REQUIRE(waitpid(child, &status, 0) == child && status == 0);
    dead = open_window();
    REQUIRE(bshm_os_open(fixture_path(), BSHM_OS_READ_WRITE, &dead_file) == 0);
    if (pinning_reader_lives)
        REQUIRE(bshm_os_lock(dead_file, BSHM_TOKEN_BYTE + 1, true) == 0);
}

/* PUNCHING: the newest frame stays, and those that a living reader has pinned; punched ones are not frames any more. */
static void a_take_over_without_memory_takes_it_from_the_dead(void)
{
    for (int living = 0; living < 2; living++) {
        participants all = {0};
        bshm_error error = {0};
        bshm_os_info after;
        unsigned seen = 0; /* a bit for each frame */
        uint64_t first_kept = living ? 2 : 4;
        pinning_reader_lives = living;
        CHECK_EQUAL(
            fail_at("bshm_os_allocate", ENOSPC, a_dead_writer_with_a_frame_that_is_pinned, creates, &all, &error), 0);
        REQUIRE(all.writer != NULL);
        CHECK_EQUAL(bshm_os_info_of(dead_file, &after), 0);
        /* header, control region, and one or two slots of three */
        CHECK_EQUAL(after.allocated_bytes, (living ? 4 : 3) * BSHM_REGION_BYTES);
        for (uint32_t slot = 0; slot < 3; slot++) {
            uint8_t pixel;
            uint64_t at = 2 * BSHM_REGION_BYTES + slot * (uint64_t)BSHM_REGION_BYTES;
            uint64_t frame = (seq_of(&dead, slot) + 1) / 2;
            bool kept = frame == 4 || frame == first_kept;
            CHECK_EQUAL(bshm_os_read(dead_file, &pixel, 1, at), 0);
            CHECK_EQUAL(pixel, kept ? frame : 0);
            CHECK_EQUAL(seq_of(&dead, slot) & 1, !kept);
            seen |= 1u << frame;
        }
        CHECK_EQUAL(seen, 1u << 2 | 1u << 3 | 1u << 4);
        CHECK_EQUAL(put(all.writer), 5);
        bshm_os_close(dead_file);
        close_window(&dead);
        end(&all);
    }
    dead_file = BSHM_OS_NO_FILE;
    dead.header = NULL;
}

/* Another process removes the temporary after the dead writer's lock was taken; then there is no room. */
static void a_take_over_that_begins_again_without_memory_ends(void)
{
    participants all = {0};
    bshm_error error = {0};
    unsigned renames = 0;
    a_dead_writer(&all);
    questions_of_room = 0;
    CHECK_EQUAL(creates(&all, &error), 0);
    unsigned of_one_attempt = questions_of_room;
    end(&all);
    failure = ENOENT;
    failed_call = "";
    for (unsigned which = 1; failed_call; which++) {
        a_dead_writer(&all);
        calls = questions_of_room = 0;
        full_from = of_one_attempt + 1;
        failed_call = NULL;
        failing = which;
        int rc = creates(&all, &error);
        failing = full_from = 0;
        if (failed_call && strcmp(failed_call, "bshm_os_rename") == 0) {
            CHECK_EQUAL(rc, BSHM_E_FULL);
            renames++;
        }
        end(&all);
        bshm_writer *next = create(&error); /* the name is free, and so is its lock */
        CHECK(next != NULL);
        bshm_writer_free(next);
    }
    CHECK_EQUAL(renames, 2); /* over nothing, over the dead writer's */
}

/* Its reader has read frame 3 of 6, and holds frame 4. */
static void a_dead_history_that_is_read(participants *all)
{
    int status;
    (void)bshm_os_unlink(fixture_path());
    (void)fflush(stdout);
    pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        bshm_writer *writer = new_writer_with_history(5, 3);
        for (int i = 0; i < 6; i++) {
            (void)put(writer);
            if (i == 2)
                (void)raise(SIGSTOP);
        }
        _exit(check_failures_so_far() != 0);
    }
    REQUIRE(waitpid(child, &status, WUNTRACED) == child && WIFSTOPPED(status));
    all->reader = new_reader(2);
    bshm_frame frame = newest(all->reader);
    CHECK_EQUAL(frame.info.sequence, 3);
    bshm_frame_release(&frame);
    REQUIRE(kill(child, SIGCONT) == 0 && waitpid(child, &status, 0) == child && status == 0);
    REQUIRE(bshm_reader_acquire_number(all->reader, 4, 0, &all->held[0], &fixture_error) == BSHM_FOUND);
    all->held_count = 1;
}

static void frames_that_a_take_over_takes_from_the_history_count_as_skipped(void)
{
    static const struct expected {
        uint64_t number, skipped;
    } expected[] = {{4, 0}, {6, 1}, {7, 0}}; /* 4 is held, 6 is the newest, 5 is gone; 7 is the successor's */
    participants all = {0};
    bshm_error error = {0};
    CHECK_EQUAL(fail_at("bshm_os_allocate", ENOSPC, a_dead_history_that_is_read, creates, &all, &error), 0);
    REQUIRE(all.writer != NULL);
    CHECK_EQUAL(put(all.writer), 7);
    for (size_t i = 0; i < sizeof expected / sizeof expected[0]; i++) {
        bshm_frame frame = {0};
        int64_t until = bshm_now_ns() + INT64_C(5000000000);
        while (bshm_reader_acquire_next(all.reader, 0, &frame, &error) != BSHM_FOUND && bshm_now_ns() < until)
            bshm_reader_wait(all.reader, 10000000);
        CHECK_EQUAL(frame.info.sequence, expected[i].number);
        CHECK_EQUAL(frame.skipped, expected[i].skipped);
        CHECK(frame.pinned && is_whole(&frame) && is_whole(&all.held[0]) && bshm_frame_intact(&all.held[0]));
        bshm_frame_release(&frame);
    }
    end(&all);
}

static void a_limit_on_file_sizes_is_an_error_and_not_a_signal(void)
{
    pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        struct rlimit limit = {.rlim_cur = 300000, .rlim_max = 300000};
        bshm_error error;
        if (setrlimit(RLIMIT_FSIZE, &limit) != 0 || create(&error) || error.code != BSHM_E_FULL)
            _exit(1);
        _exit(error.system_errno != EFBIG || !strstr(error.message, "ulimit -f"));
    }
    int status;
    REQUIRE(waitpid(child, &status, 0) == child);
    CHECK_EQUAL(status, 0);
}

/* Each locks the byte, and then finds that the other has it. */
static void observers_that_arrive_together_have_a_byte_each(void)
{
    bshm_os_file one, other;
    bshm_writer *writer = new_writer(3);
    REQUIRE(bshm_os_open(fixture_path(), BSHM_OS_READ, &one) == 0);
    REQUIRE(bshm_os_open(fixture_path(), BSHM_OS_READ, &other) == 0);
    uint64_t byte = BSHM_READER_BYTE + BSHM_MAX_READERS;
    uint64_t from, to;
    CHECK_EQUAL(bshm_os_lock_alone(one, byte), 0);
    CHECK_EQUAL(bshm_os_lock_alone(other, byte), -EAGAIN);
    CHECK_EQUAL(bshm_os_find_locked(other, byte, byte, false, &from, &to), 1); /* it kept what it had */
    CHECK_EQUAL(bshm_os_find_locked(one, byte, byte, false, &from, &to), 0);   /* and the other got nothing */
    CHECK_EQUAL(bshm_os_lock_alone(other, byte + 1), 0);
    bshm_os_close(one);
    bshm_os_close(other);
    bshm_writer_free(writer);
}

static void a_temporary_from_the_beginning_of_time_is_old(void)
{
    char path[BSHM_OS_PATH_BYTES];
    bshm_os_file file;
    struct timespec then[2] = {{-9223372036, 0}, {-9223372036, 0}};
    REQUIRE(bshm_temporary_path(fixture_path(), path, &fixture_error) == BSHM_OK);
    REQUIRE(bshm_os_create(path, &file) == 0);
    bshm_os_close(file);
    REQUIRE(utimensat(AT_FDCWD, path, then, 0) == 0);
    CHECK_EQUAL(bshm_remove_stale_temporary(path, &fixture_error), BSHM_REMOVED);
}

int main(int argc, char **argv)
{
    fixture_begin(argc, argv);
    (void)snprintf(directory, sizeof directory, "%s/%s-files", bshm_object_directory(), argv[1]);
    REQUIRE(mkdir(directory, 0700) == 0);
    (void)snprintf(fixture_name, sizeof fixture_name, "%.100s/segment", directory);
    RUN(a_segment_that_cannot_fit_is_refused_without_taking_a_page);
    RUN(an_allocation_that_fails_in_its_middle_keeps_nothing);
    RUN(an_allocation_interrupted_by_another_stops_immediately_and_keeps_nothing);
    RUN(missing_memory_is_noticed_before_it_is_touched);
    RUN(a_take_over_without_memory_takes_it_from_the_dead);
    RUN(a_take_over_that_begins_again_without_memory_ends);
    RUN(frames_that_a_take_over_takes_from_the_history_count_as_skipped);
    RUN(a_limit_on_file_sizes_is_an_error_and_not_a_signal);
    RUN(observers_that_arrive_together_have_a_byte_each);
    RUN(a_temporary_from_the_beginning_of_time_is_old);
    RUN(creating_may_fail_anywhere);
    RUN(taking_over_may_fail_anywhere);
    RUN(backing_a_slot_may_fail_anywhere);
    RUN(replacing_may_fail_anywhere);
    RUN(attaching_and_reading_may_fail_anywhere);
    RUN(reading_the_window_may_fail_anywhere);
    RUN(cleaning_may_fail_anywhere);
    RUN(inspecting_may_fail_anywhere);
    RUN(a_slot_that_cannot_be_backed_drops_the_frame_and_names_the_bytes);
    RUN(a_slot_that_cannot_be_backed_is_taken_from_the_dead);
    RUN(no_memory_for_a_segment_is_an_error_that_names_the_bytes);
    RUN(a_segment_without_memory_behind_it_is_refused_before_it_is_touched);
    CHECK_EQUAL(rmdir(directory), 0); /* nothing is left in it */
    return check_summary();
}
