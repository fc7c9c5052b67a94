/* Forks: what a child has of its parent's writers and readers, and what it must not have. */
#include "fixture.h"
#include "layout.h"

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>

#define CHILDREN 25u /* where several threads have to meet */

/* AddressSanitizer's allocator, unlike the C library's, stays locked in a child if another thread was in it during the
 * fork (GCC 12). So no thread is: its fork handlers are the first that are registered, and so the innermost. */
#ifdef __SANITIZE_ADDRESS__
static pthread_mutex_t allocating = PTHREAD_MUTEX_INITIALIZER;

static void begin_to_allocate(void)
{
    (void)pthread_mutex_lock(&allocating);
}

static void end_to_allocate(void)
{
    (void)pthread_mutex_unlock(&allocating);
}
#else
static void begin_to_allocate(void)
{
}
static void end_to_allocate(void)
{
}
#endif

extern __typeof__(malloc) __real_malloc;
extern __typeof__(malloc) __wrap_malloc;
void *__wrap_malloc(size_t bytes)
{
    begin_to_allocate();
    void *found = __real_malloc(bytes);
    end_to_allocate();
    return found;
}

extern __typeof__(calloc) __real_calloc;
extern __typeof__(calloc) __wrap_calloc;
void *__wrap_calloc(size_t count, size_t bytes)
{
    begin_to_allocate();
    void *found = __real_calloc(count, bytes);
    end_to_allocate();
    return found;
}

extern __typeof__(free) __real_free;
extern __typeof__(free) __wrap_free;
void __wrap_free(void *allocated)
{
    begin_to_allocate();
    __real_free(allocated);
    end_to_allocate();
}

/* In a child: the test's verdict is its exit status. */
static void leave_child(void)
{
    (void)fflush(stdout);
    _exit(check_failures_so_far() != 0);
}

static pid_t begin_child(void)
{
    (void)fflush(stdout);
    pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0)
        __atomic_store_n(&check_failures, 0, __ATOMIC_RELAXED);
    return child;
}

static void expect_child_well(pid_t child)
{
    int status;
    REQUIRE(waitpid(child, &status, 0) == child);
    CHECK_EQUAL(status, 0);
}

typedef struct belongings {
    unsigned files, mappings;
} belongings;

/* What this process has of objects with the fixture's name, including those that lost it. */
static belongings take_stock(void)
{
    char line[2 * BSHM_OS_PATH_BYTES], target[BSHM_OS_PATH_BYTES];
    belongings found = {0, 0};
    FILE *maps = fopen("/proc/self/maps", "r");
    REQUIRE(maps != NULL);
    while (fgets(line, sizeof line, maps))
        found.mappings += strstr(line, bshm_object_directory()) != NULL;
    (void)fclose(maps);
    for (int file = 0; file < 256; file++) {
        (void)snprintf(line, sizeof line, "/proc/self/fd/%d", file);
        ssize_t length = readlink(line, target, sizeof target - 1);
        if (length <= 0)
            continue;
        target[length] = '\0';
        found.files += strstr(target, bshm_object_directory()) != NULL;
    }
    return found;
}

static void expect_nothing_of_the_segment(void)
{
    belongings found = take_stock();
    CHECK_EQUAL(found.files, 0);
    CHECK_EQUAL(found.mappings, 0);
}

/* ---------------------------------------------------------------- a reader that the child goes on with */

static bshm_reader *common;
static pthread_barrier_t barrier;

static void *read_frames(void *unused)
{
    bshm_error error;
    (void)pthread_barrier_wait(&barrier);
    for (int i = 0; i < 50; i++) {
        bshm_frame frame;
        int rc = bshm_reader_acquire(common, BSHM_ACQUIRE_SEEN, &frame, &error);
        CHECK(rc == BSHM_FOUND || rc == BSHM_NOTHING); /* nothing: another thread has just tried to attach */
        if (rc != BSHM_FOUND)
            continue;
        CHECK_EQUAL(frame.info.sequence, 1);
        if (!frame.to_copy)
            CHECK(is_whole(&frame));
        bshm_frame_release(&frame);
    }
    return unused;
}

static void *attach_and_ask(void *unused)
{
    bshm_error error;
    (void)pthread_barrier_wait(&barrier);
    CHECK_EQUAL(bshm_reader_attach(common, &error), BSHM_OK);
    CHECK_EQUAL(bshm_reader_status(common), BSHM_STATUS_LIVE);
    bshm_reader_wait(common, 1000);
    return unused;
}

static void several_threads_of_a_child_may_be_the_first_to_use_a_reader(void)
{
    bshm_writer *writer = new_writer(8);
    (void)put(writer);
    for (unsigned i = 0; i < CHILDREN; i++) {
        common = new_reader(2);
        bshm_frame seen = newest(common);
        bshm_frame_release(&seen);
        pid_t child = begin_child();
        if (child == 0) {
            pthread_t threads[4];
            (void)pthread_barrier_init(&barrier, NULL, 4);
            for (int k = 0; k < 4; k++)
                REQUIRE(pthread_create(&threads[k], NULL, k < 3 ? read_frames : attach_and_ask, NULL) == 0);
            for (int k = 0; k < 4; k++)
                (void)pthread_join(threads[k], NULL);
            bshm_reader_free(common);
            leave_child();
        }
        expect_child_well(child);
        bshm_reader_free(common);
    }
    bshm_writer_free(writer);
}

static uint32_t stop, begun;

/* A thread that starts allocates, too. */
static void wait_until_begun(uint32_t threads)
{
    while (__atomic_load_n(&begun, __ATOMIC_RELAXED) < threads)
        (void)sched_yield();
    __atomic_store_n(&begun, 0, __ATOMIC_RELAXED);
}

static void note_begun(void)
{
    (void)__atomic_add_fetch(&begun, 1, __ATOMIC_RELAXED);
}

static bool stopped(void)
{
    return __atomic_load_n(&stop, __ATOMIC_RELAXED) != 0;
}

static void *use_until_stopped(void *unused)
{
    bshm_error error;
    bshm_frame frame;
    note_begun();
    while (!stopped()) {
        if (bshm_reader_acquire(common, BSHM_ACQUIRE_SEEN | BSHM_ACQUIRE_COPY, &frame, &error) == BSHM_FOUND)
            bshm_frame_release(&frame);
        (void)bshm_reader_status(common);
    }
    return unused;
}

static void *attach_and_inspect_until_stopped(void *unused)
{
    static bshm_inspection inspection;
    bshm_error error;
    note_begun();
    while (!stopped()) {
        (void)bshm_inspect(fixture_name, NULL, &inspection, &error);
        (void)bshm_remove_stale(fixture_name, NULL, &error);
        bshm_reader *reader = new_reader(1);
        (void)bshm_reader_attach(reader, &error);
        bshm_reader_free(reader);
    }
    return unused;
}

static void *do_nothing(void *unused)
{
    return unused;
}

/* Whatever the other threads were at: they hold mutexes, and files that only their stacks refer to. New threads of the
 * child get those stacks, and then it forks too. */
static void a_child_works_whatever_the_other_threads_were_doing(void)
{
    pthread_t threads[2];
    bshm_writer *writer = new_writer(8);
    (void)put(writer);
    common = new_reader(2);
    __atomic_store_n(&stop, 0, __ATOMIC_RELAXED);
    REQUIRE(pthread_create(&threads[0], NULL, use_until_stopped, NULL) == 0);
    REQUIRE(pthread_create(&threads[1], NULL, attach_and_inspect_until_stopped, NULL) == 0);
    wait_until_begun(2);
    for (unsigned i = 0; i < 2 * CHILDREN; i++) {
        (void)sched_yield();
        pid_t child = begin_child();
        if (child == 0) {
            expect_nothing_of_the_segment();
            for (int k = 0; k < 3; k++) {
                pthread_t thread;
                REQUIRE(pthread_create(&thread, NULL, do_nothing, NULL) == 0);
                (void)pthread_join(thread, NULL);
            }
            pid_t grandchild = begin_child();
            if (grandchild == 0) {
                bshm_frame frame = newest(common);
                CHECK(frame.to_copy || is_whole(&frame));
                bshm_frame_release(&frame);
                bshm_reader_free(common);
                expect_nothing_of_the_segment();
                leave_child();
            }
            expect_child_well(grandchild);
            leave_child();
        }
        expect_child_well(child);
    }
    __atomic_store_n(&stop, 1, __ATOMIC_RELAXED);
    (void)pthread_join(threads[0], NULL);
    (void)pthread_join(threads[1], NULL);
    bshm_reader_free(common);
    bshm_writer_free(writer);
}

/* ---------------------------------------------------------------- memory */

static void *wait_until_stopped(void *unused)
{
    note_begun();
    while (!stopped())
        bshm_reader_wait(common, 20000000);
    return unused;
}

static void a_child_that_uses_nothing_keeps_nothing(void)
{
    pthread_t waiting;
    bshm_writer *writer = new_writer(5);
    (void)put(writer);
    bshm_loan loan;
    bshm_frame_info info = picture(HEIGHT);
    REQUIRE(bshm_writer_loan(writer, &info, &loan, &fixture_error) == BSHM_OK);
    common = new_reader(2);
    bshm_frame seen = newest(common);
    bshm_frame_release(&seen);
    __atomic_store_n(&stop, 0, __ATOMIC_RELAXED);
    REQUIRE(pthread_create(&waiting, NULL, wait_until_stopped, NULL) == 0);
    wait_until_begun(1);
    bshm_os_sleep(5000000); /* most likely it waits */
    pid_t child = begin_child();
    if (child == 0) {
        expect_nothing_of_the_segment();
        leave_child();
    }
    expect_child_well(child);
    __atomic_store_n(&stop, 1, __ATOMIC_RELAXED);
    (void)pthread_join(waiting, NULL);
    bshm_loan_release(&loan);
    bshm_reader_free(common);
    bshm_writer_free(writer);
}

static void a_view_stays_in_the_child_until_it_is_released_there(void)
{
    bshm_writer *writer = new_writer(5);
    (void)put(writer);
    bshm_reader *reader = new_reader(2);
    bshm_frame held = newest(reader), twice = newest(reader), copied = {0};
    REQUIRE(bshm_reader_acquire(reader, BSHM_ACQUIRE_SEEN | BSHM_ACQUIRE_COPY, &copied, &fixture_error) == BSHM_FOUND);
    CHECK(!held.to_copy && !twice.to_copy && copied.to_copy);
    pid_t child = begin_child();
    if (child == 0) {
        uint8_t pixels[FRAME_BYTES];
        CHECK(is_whole(&held) && bshm_frame_intact(&held));
        CHECK_EQUAL(bshm_frame_copy(&held, pixels, sizeof pixels), BSHM_OK);
        CHECK_EQUAL(take_stock().files, 0);
        bshm_frame again = newest(reader); /* the reader has its own attachment now */
        CHECK(is_whole(&again));
        bshm_frame_release(&again);
        bshm_reader_free(reader);
        bshm_frame_release(&held);
        CHECK(is_whole(&twice));
        bshm_frame_release(&twice);
        expect_nothing_of_the_segment();
        CHECK_EQUAL(bshm_frame_copy(&copied, pixels, sizeof pixels), BSHM_E_TORN); /* released, but no fault */
        bshm_frame_release(&copied);
        leave_child();
    }
    expect_child_well(child);
    CHECK(is_whole(&held) && is_whole(&twice));
    window shared = open_window();
    CHECK_EQUAL(pinned_slots(&shared, 5), 1); /* the child released nothing of its parent's */
    close_window(&shared);
    bshm_frame_release(&held);
    bshm_frame_release(&twice);
    bshm_frame_release(&copied);
    bshm_reader_free(reader);
    bshm_writer_free(writer);
}

static void a_copy_that_was_being_made_keeps_no_memory_in_the_child(void)
{
    bshm_writer *writer = new_writer(5);
    (void)put(writer);
    for (uint32_t max_leases = 0; max_leases <= 1; max_leases++) { /* on a transient token; on a kept one */
        bshm_reader *reader = new_reader(max_leases);
        if (max_leases > 0) {
            bshm_frame kept = newest(reader);
            bshm_frame_release(&kept);
        }
        bshm_frame copied = {0};
        REQUIRE(bshm_reader_acquire(reader, BSHM_ACQUIRE_SEEN | BSHM_ACQUIRE_COPY, &copied, &fixture_error) ==
                BSHM_FOUND);
        CHECK(copied.pinned && copied.to_copy);
        bshm_frame viewed = newest(reader);
        CHECK_EQUAL(viewed.to_copy, max_leases == 0);
        bshm_frame_release(&viewed);
        pid_t child = begin_child();
        if (child == 0) {
            expect_nothing_of_the_segment();
            leave_child();
        }
        expect_child_well(child);
        bshm_frame_release(&copied);
        bshm_reader_free(reader);
    }
    bshm_writer_free(writer);
}

static void pixels_that_a_child_draws_into_a_loan_are_seen_by_nobody(void)
{
    bshm_writer *writer = new_writer(5);
    bshm_loan loan;
    bshm_frame_info info = picture(HEIGHT);
    uint64_t sequence = 0;
    REQUIRE(bshm_writer_loan(writer, &info, &loan, &fixture_error) == BSHM_OK);
    memset(loan.pixels, 1, FRAME_BYTES);
    pid_t child = begin_child();
    if (child == 0) {
        memset(loan.pixels, 7, FRAME_BYTES);
        CHECK_EQUAL(bshm_writer_publish(writer, &loan, &sequence, &fixture_error), BSHM_E_CLOSED);
        bshm_writer_cancel(writer, &loan);
        bshm_loan_release(&loan);
        bshm_writer_free(writer);
        expect_nothing_of_the_segment();
        leave_child();
    }
    expect_child_well(child);
    CHECK_EQUAL(bshm_writer_publish(writer, &loan, &sequence, &fixture_error), BSHM_OK);
    bshm_loan_release(&loan);
    bshm_reader *reader = new_reader(1);
    bshm_frame frame = newest(reader);
    CHECK(is_whole(&frame));
    bshm_frame_release(&frame);
    bshm_reader_free(reader);
    bshm_writer_free(writer);
}

static void addresses_that_are_held_show_zeros_and_keep_no_memory(void)
{
    belongings before = take_stock();
    bshm_writer *writer = new_writer(5);
    (void)put(writer);
    bshm_reader *reader = new_reader(2);
    bshm_frame frame = newest(reader);
    const uint8_t *pixels = frame.pixels;
    bshm_attachment *addresses = bshm_addresses_hold(frame.attachment);
    CHECK(bshm_addresses_hold(NULL) == NULL);
    bshm_frame_release(&frame);
    bshm_writer_free(writer);
    CHECK_EQUAL(pixels[0], 1); /* the reader is still attached */
    bshm_reader_free(reader);
    belongings after = take_stock();
    CHECK(after.files == before.files && after.mappings == before.mappings);
    void *elsewhere = mmap((void *)(uintptr_t)pixels, 65536, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(elsewhere != pixels); /* the place is taken */
    (void)munmap(elsewhere, 65536);
    for (uint64_t i = 0; i < FRAME_BYTES; i++)
        CHECK_EQUAL(pixels[i], 0);
    bshm_addresses_release(addresses);
    bshm_addresses_release(NULL);
}

/* ---------------------------------------------------------------- files and locks */

/* The thing on the stack is no longer there, and the fork handler must not find it. */
static __attribute__((noinline)) void write_over_the_stack(void)
{
    volatile uint8_t bytes[65536];
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = 0x41;
}

static void a_file_that_could_not_be_opened_is_forgotten(void)
{
    static bshm_inspection inspection;
    CHECK_EQUAL(bshm_inspect(fixture_name, NULL, &inspection, &fixture_error), BSHM_E_NOT_FOUND);
    write_over_the_stack();
    pid_t child = begin_child();
    if (child == 0)
        leave_child();
    expect_child_well(child);
}

static bshm_brief_file brief;
static bool handled_again;

static bool note_that_it_is_handled_again(bshm_os_fork_member *member)
{
    (void)member;
    return handled_again = true;
}

/* It is on the stack of a thread, which the child has used for something else by the time it forks. */
static void a_file_that_is_open_for_a_moment_is_closed_and_forgotten_in_a_child(void)
{
    bshm_writer *writer = new_writer(3);
    bshm_trusted trusted = {.count = 0};
    bshm_os_info info;
    CHECK_EQUAL(bshm_brief_open(&brief, fixture_path(), fixture_name, BSHM_OS_READ, &trusted, &info, NULL), BSHM_OK);
    pid_t child = begin_child();
    if (child == 0) {
        expect_nothing_of_the_segment();
        brief.fork_member.in_child = note_that_it_is_handled_again;
        pid_t grandchild = begin_child();
        if (grandchild == 0) {
            CHECK(!handled_again);
            leave_child();
        }
        expect_child_well(grandchild);
        leave_child();
    }
    expect_child_well(child);
    bshm_brief_close(&brief);
    bshm_writer_free(writer);
}

static void files_that_are_closed_are_not_closed_again_in_a_child(void)
{
    int files[32];
    bshm_writer *writer = new_writer(3);
    (void)put(writer);
    bshm_reader *reader = new_reader(1);
    bshm_frame frame = newest(reader);
    bshm_attachment *addresses = bshm_addresses_hold(frame.attachment); /* outlives its files, as a loan does */
    bshm_frame_release(&frame);
    bshm_loan loan;
    bshm_frame_info info = picture(HEIGHT);
    REQUIRE(bshm_writer_loan(writer, &info, &loan, &fixture_error) == BSHM_OK);
    bshm_writer_options options = {.slot_capacity = FRAME_BYTES, .slots = 3, .mode = 0600};
    bshm_writer *refused = NULL;
    CHECK_EQUAL(bshm_writer_create(&refused, fixture_name, &options, &fixture_error), BSHM_E_EXISTS);
    bshm_reader_free(reader);
    bshm_writer_close(writer);
    for (int i = 0; i < 32; i++)
        files[i] = open("/dev/null", O_RDONLY);
    pid_t child = begin_child();
    if (child == 0) {
        for (int i = 0; i < 32; i++)
            CHECK(fcntl(files[i], F_GETFD) >= 0);
        leave_child();
    }
    expect_child_well(child);
    for (int i = 0; i < 32; i++)
        (void)close(files[i]);
    bshm_addresses_release(addresses);
    bshm_loan_release(&loan);
    bshm_writer_free(writer);
}

/* A thread is about to unmap something: the test forks now, and if that is delayed until it is done, the delay is
 * long enough to show. */
#define HELD_UP_NS INT64_C(30000000)
static unsigned unmapping; /* 1: one is waited for; 2: it is there; 3: the fork is done */
static unsigned passing;   /* how many come before it */

extern __typeof__(munmap) __real_munmap;
extern __typeof__(munmap) __wrap_munmap;
int __wrap_munmap(void *address, size_t bytes)
{
    unsigned expected = 1;
    int64_t until = bshm_now_ns() + HELD_UP_NS;
    if (__atomic_load_n(&unmapping, __ATOMIC_SEQ_CST) == 1 && passing > 0)
        passing--;
    else if (__atomic_compare_exchange_n(&unmapping, &expected, 2, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
        while (__atomic_load_n(&unmapping, __ATOMIC_SEQ_CST) == 2 && bshm_now_ns() < until)
            (void)sched_yield();
    return __real_munmap(address, bytes);
}

static bshm_loan outliving;

static void *let_frame_go(void *frame)
{
    bshm_frame_release(frame);
    return NULL;
}

static void *let_loan_go(void *unused)
{
    bshm_loan_release(&outliving);
    return unused;
}

static void fork_while_it_unmaps(void *(*let_go)(void *), void *what, unsigned after)
{
    pthread_t thread;
    passing = after;
    __atomic_store_n(&unmapping, 1, __ATOMIC_SEQ_CST);
    REQUIRE(pthread_create(&thread, NULL, let_go, what) == 0);
    while (__atomic_load_n(&unmapping, __ATOMIC_SEQ_CST) == 1)
        (void)sched_yield();
    pid_t child = begin_child();
    if (child == 0) {
        expect_nothing_of_the_segment();
        leave_child();
    }
    __atomic_store_n(&unmapping, 3, __ATOMIC_SEQ_CST);
    (void)pthread_join(thread, NULL);
    __atomic_store_n(&unmapping, 0, __ATOMIC_SEQ_CST);
    expect_child_well(child);
}

static void memory_that_is_being_unmapped_is_in_no_child(void)
{
    bshm_writer *writer = new_writer(3);
    (void)put(writer);
    bshm_reader *reader = new_reader(1);
    bshm_frame frame = newest(reader);
    bshm_reader_free(reader);
    bshm_frame_info info = picture(HEIGHT);
    REQUIRE(bshm_writer_loan(writer, &info, &outliving, &fixture_error) == BSHM_OK);
    bshm_writer_free(writer);
    fork_while_it_unmaps(let_frame_go, &frame, 1); /* the control region, which no child has */
    fork_while_it_unmaps(let_loan_go, NULL, 0);
    expect_nothing_of_the_segment();
}

static unsigned observers_present(void)
{
    static bshm_inspection inspection;
    unsigned count = 0;
    CHECK_EQUAL(bshm_inspect(fixture_name, NULL, &inspection, &fixture_error), BSHM_OK);
    for (uint32_t i = 0; i < inspection.reader_count; i++)
        count += inspection.readers[i].kind == BSHM_READER_OBSERVER;
    return count;
}

/* Through the platform layer, which does not check the user: root may write everything. */
static void an_observers_presence_ends_with_it_though_a_child_lives_on(void)
{
    int ready[2];
    char byte;
    bshm_writer *writer = NULL;
    bshm_writer_options options = {.slot_capacity = FRAME_BYTES, .slots = 3, .mode = 0444};
    REQUIRE(bshm_writer_create(&writer, fixture_name, &options, &fixture_error) == BSHM_OK);
    (void)put(writer);
    REQUIRE(pipe(ready) == 0);
    pid_t observer = begin_child();
    if (observer == 0) {
        uint32_t owner = (uint32_t)geteuid();
        if (owner == 0)
            REQUIRE(setuid(12345) == 0);
        bshm_reader *reader = NULL;
        bshm_reader_options trusting = {.max_leases = 1, .trusted = {.uids = &owner, .count = 1}};
        REQUIRE(bshm_reader_create(&reader, fixture_name, &trusting, &fixture_error) == BSHM_OK);
        bshm_frame frame = newest(reader);
        CHECK(!frame.pinned);
        bshm_frame_release(&frame);
        CHECK_EQUAL(observers_present(), 1);
        bshm_reader_wait(reader, 1000);
        CHECK_EQUAL(take_stock().mappings, 1); /* the header's: it reads no pixels in a mapping */
        pid_t child = begin_child();
        if (child == 0) {
            (void)close(ready[0]);
            child = getpid();
            (void)write(ready[1], &child, sizeof child);
            (void)pause();
        }
        leave_child();
    }
    pid_t survivor;
    REQUIRE(read(ready[0], &survivor, sizeof survivor) == sizeof survivor);
    expect_child_well(observer);
    CHECK_EQUAL(observers_present(), 0);
    (void)close(ready[1]);
    (void)kill(survivor, SIGKILL);
    CHECK_EQUAL(read(ready[0], &byte, 1), 0); /* its end is closed: it no longer exists */
    (void)close(ready[0]);
    bshm_writer_free(writer);
}

int main(int argc, char **argv)
{
    REQUIRE(pthread_atfork(begin_to_allocate, end_to_allocate, end_to_allocate) == 0);
    fixture_begin(argc, argv);
    RUN(several_threads_of_a_child_may_be_the_first_to_use_a_reader);
    RUN(a_child_works_whatever_the_other_threads_were_doing);
    RUN(a_child_that_uses_nothing_keeps_nothing);
    RUN(a_view_stays_in_the_child_until_it_is_released_there);
    RUN(a_copy_that_was_being_made_keeps_no_memory_in_the_child);
    RUN(pixels_that_a_child_draws_into_a_loan_are_seen_by_nobody);
    RUN(addresses_that_are_held_show_zeros_and_keep_no_memory);
    RUN(a_file_that_could_not_be_opened_is_forgotten);
    RUN(a_file_that_is_open_for_a_moment_is_closed_and_forgotten_in_a_child);
    RUN(files_that_are_closed_are_not_closed_again_in_a_child);
    RUN(memory_that_is_being_unmapped_is_in_no_child);
    RUN(an_observers_presence_ends_with_it_though_a_child_lives_on);
    return check_summary();
}
