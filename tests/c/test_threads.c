/* One writer and four readers at full speed for two seconds: two lease, two copy. Every line of 64 bytes of a frame
 * is a function of the frame's number and the line, and every reader checks every line.
 *
 * ThreadSanitizer sees what the threads share inside the process: readers, attachments, references, mutexes. It does
 * not see the segment, which each participant maps at another address; test_races.c plays the protocol on one mapping
 * for that. GCC's ThreadSanitizer does not model atomic_thread_fence (-Wtsan, turned off by the build): what is
 * compared here by address is ordered by mutexes and read-modify-writes, not by fences. Unpinned copies, which race
 * by design, are made by pread, which does not count as an access by a thread.
 */
#include "fixture.h"

#include <pthread.h>

#define LINE_BYTES  64u
#define LINE_WORDS  (LINE_BYTES / 8)
#define SMALL_LINES 512u
#define LARGE_LINES 34000u /* above two MiB: non-temporal stores, where the processor has them */
#define SLOTS       5u     /* three tokens, which the two lease readers keep, so some copies are unpinned */
#define ROUND_NS    INT64_C(1000000000)

static uint32_t stop;
static uint32_t lines;

/* Counters for waiting on threads; relaxed, they order nothing. */
static void count(uint64_t *counter)
{
    (void)__atomic_fetch_add(counter, 1, __ATOMIC_RELAXED);
}

static uint64_t value_of(const uint64_t *counter)
{
    return __atomic_load_n(counter, __ATOMIC_RELAXED);
}

/* Every thread runs sooner or later, however busy the machine is. */
static void await_some(const uint64_t *counter)
{
    int64_t deadline = bshm_now_ns() + INT64_C(30000000000);
    while (value_of(counter) == 0 && CHECK(bshm_now_ns() < deadline))
        bshm_os_sleep(1000000);
}

static bool stopped(void)
{
    return __atomic_load_n(&stop, __ATOMIC_RELAXED) != 0;
}

/* ---------------------------------------------------------------- pictures */

static uint64_t word_of(uint64_t n, uint64_t line)
{
    return n * UINT64_C(0x9E3779B97F4A7C15) ^ line * UINT64_C(0xC2B2AE3D27D4EB4F);
}

static void draw(void *pixels, uint64_t n)
{
    uint64_t words[LINE_WORDS];
    for (uint64_t line = 0; line < lines; line++) {
        for (size_t i = 0; i < LINE_WORDS; i++)
            words[i] = word_of(n, line);
        memcpy((uint8_t *)pixels + line * LINE_BYTES, words, LINE_BYTES);
    }
}

static bool shows(const void *pixels, uint64_t n)
{
    uint64_t words[LINE_WORDS];
    for (uint64_t line = 0; line < lines; line++) {
        memcpy(words, (const uint8_t *)pixels + line * LINE_BYTES, LINE_BYTES);
        for (size_t i = 0; i < LINE_WORDS; i++)
            if (words[i] != word_of(n, line))
                return false;
    }
    return true;
}

static bshm_frame_info info_of_picture(void)
{
    return (bshm_frame_info){
        .width = LINE_BYTES, .height = lines, .channels = 1, .item_size = 1, .ndim = 2, .kind = 'u'};
}

/* ---------------------------------------------------------------- the writer */

static void write_by_copy(bshm_writer *writer, void *scratch, uint64_t n)
{
    bshm_frame_info info = info_of_picture();
    bshm_error error = {0};
    uint64_t sequence = 0;
    draw(scratch, n);
    CHECK_EQUAL(bshm_writer_write(writer, &info, scratch, LINE_BYTES, &sequence, &error), BSHM_OK);
    CHECK_EQUAL(sequence, n);
}

static void write_by_loan(bshm_writer *writer, uint64_t n, bool publish)
{
    bshm_frame_info info = info_of_picture();
    bshm_error error = {0};
    bshm_loan loan;
    uint64_t sequence = 0;
    if (!CHECK_EQUAL(bshm_writer_loan(writer, &info, &loan, &error), BSHM_OK))
        return;
    draw(loan.pixels, n);
    if (publish) {
        CHECK_EQUAL(bshm_writer_publish(writer, &loan, &sequence, &error), BSHM_OK);
        CHECK_EQUAL(sequence, n);
    } else {
        bshm_writer_cancel(writer, &loan);
    }
    bshm_loan_release(&loan);
}

static void *write_until_stopped(void *given)
{
    bshm_writer *writer = given;
    void *scratch = malloc((size_t)lines * LINE_BYTES);
    REQUIRE(scratch != NULL);
    for (uint64_t n = 1; !stopped(); n++) {
        if (n % 7 == 0)
            write_by_loan(writer, UINT64_MAX, false); /* cancelled: no reader may ever see this */
        if (n % 3 == 0)
            write_by_copy(writer, scratch, n);
        else
            write_by_loan(writer, n, true);
    }
    free(scratch);
    return NULL;
}

/* ---------------------------------------------------------------- the readers */

typedef struct shift {
    uint32_t max_leases, flags;
    bshm_reader *reader;
    window shared;
    uint64_t leased, copied, unpinned, torn;
    uint64_t whole; /* of both kinds */
    bshm_reader_counters counters;
} shift;

static void look_at(const bshm_frame *frame, void *scratch, shift *mine)
{
    uint64_t n = frame->info.sequence;
    if (!frame->to_copy) {
        mine->leased++;
        count(&mine->whole);
        CHECK(shows(frame->pixels, n));
        CHECK(bshm_frame_intact(frame));
        return;
    }
    mine->unpinned += !frame->pinned;
    if (bshm_frame_copy(frame, scratch, (uint64_t)lines * LINE_BYTES) == BSHM_OK) {
        mine->copied++;
        count(&mine->whole);
        CHECK(shows(scratch, n));
    } else {
        CHECK(!frame->pinned); /* a pinned one is never torn */
        mine->torn++;
        bshm_reader_give_back(mine->reader, frame);
    }
}

/* `latest` is stored before `notify`: a reader that loads them in the other order sees at least as many frames as
 * bumps. */
static void check_order(const window *shared)
{
    uint32_t bumps = bshm_load_acquire32(&shared->header->publication.notify);
    uint64_t latest = BSHM_LATEST_SEQUENCE(bshm_step_load_latest(shared->header));
    CHECK(latest + 1 >= bumps); /* the first bump was LIVE */
}

static void *read_until_stopped(void *given)
{
    shift *mine = given;
    void *scratch = malloc((size_t)lines * LINE_BYTES);
    bshm_frame held = {0};
    bshm_error error = {0};
    uint64_t last = 0;
    REQUIRE(scratch != NULL);
    while (!stopped()) {
        bshm_frame frame = {0};
        check_order(&mine->shared);
        if (mine->max_leases == 1)
            bshm_frame_release(&held); /* otherwise its only lease would stay in use */
        int rc = bshm_reader_acquire(mine->reader, mine->flags, &frame, &error);
        if (rc == BSHM_NOTHING)
            bshm_reader_wait(mine->reader, 10000000);
        if (rc != BSHM_FOUND) {
            CHECK_EQUAL(rc, BSHM_NOTHING);
            continue;
        }
        CHECK(frame.info.sequence > last);
        last = frame.info.sequence;
        look_at(&frame, scratch, mine);
        if (frame.to_copy || last % 4 == 0) {
            bshm_frame_release(&frame);
            continue;
        }
        if (held.attachment) /* the previous frame is unchanged, however many have arrived since */
            CHECK(shows(held.pixels, held.info.sequence) && bshm_frame_intact(&held));
        bshm_frame_release(&held);
        held = frame;
    }
    bshm_frame_release(&held);
    bshm_reader_get_counters(mine->reader, &mine->counters);
    CHECK_EQUAL(mine->counters.copies, mine->copied);
    CHECK_EQUAL(mine->counters.frames, mine->copied + mine->leased);
    free(scratch);
    close_window(&mine->shared);
    bshm_reader_free(mine->reader);
    return NULL;
}

/* ---------------------------------------------------------------- together */

static void run_for_a_round(uint32_t line_count)
{
    pthread_t writing, reading[4];
    shift shifts[4] = {{.max_leases = 2}, {.max_leases = 1}, {.flags = BSHM_ACQUIRE_COPY}, {.max_leases = 0}};
    bshm_writer *writer = NULL;
    bshm_writer_options options = {.slot_capacity = (uint64_t)line_count * LINE_BYTES, .slots = SLOTS, .mode = 0600};
    lines = line_count;
    __atomic_store_n(&stop, 0, __ATOMIC_RELAXED);
    REQUIRE(bshm_writer_create(&writer, fixture_name, &options, &fixture_error) == BSHM_OK);
    for (size_t i = 0; i < 4; i++) {
        shifts[i].reader = new_reader(shifts[i].max_leases);
        shifts[i].shared = open_window();
        REQUIRE(pthread_create(&reading[i], NULL, read_until_stopped, &shifts[i]) == 0);
    }
    REQUIRE(pthread_create(&writing, NULL, write_until_stopped, writer) == 0);
    bshm_os_sleep(ROUND_NS);
    for (size_t i = 0; i < 4; i++)
        await_some(&shifts[i].whole);
    __atomic_store_n(&stop, 1, __ATOMIC_RELAXED);
    (void)pthread_join(writing, NULL);
    for (size_t i = 0; i < 4; i++)
        (void)pthread_join(reading[i], NULL);
    bshm_writer_counters counters = counters_of(writer);
    printf("    %llu frames of %u KiB written\n", (unsigned long long)counters.statistics.published.shared,
           line_count * LINE_BYTES / 1024);
    for (size_t i = 0; i < 4; i++) {
        printf("    reader %zu: %llu leased, %llu copied (%llu without a pin), %llu torn, %llu skipped, %llu retries\n",
               i, (unsigned long long)shifts[i].leased, (unsigned long long)shifts[i].copied,
               (unsigned long long)shifts[i].unpinned, (unsigned long long)shifts[i].torn,
               (unsigned long long)shifts[i].counters.skipped, (unsigned long long)shifts[i].counters.retries);
    }
    CHECK(counters.statistics.published.shared > 0);
    CHECK_EQUAL(counters.statistics.dropped.shared, 0);
    CHECK_EQUAL(counters.statistics.leases_broken.shared, 0);
    window shared = open_window();
    CHECK_EQUAL(pinned_slots(&shared, SLOTS), 0);
    check_invariants(&shared, SLOTS);
    close_window(&shared);
    bshm_writer_free(writer);
}

static void small_frames_are_whole_for_everyone(void)
{
    run_for_a_round(SMALL_LINES);
}

static void large_frames_are_whole_for_everyone(void)
{
    run_for_a_round(LARGE_LINES);
}

/* ---------------------------------------------------------------- one reader, several threads */

static bshm_reader *common;

static void *share_a_reader(void *given)
{
    uint64_t *frames = given;
    bshm_error error = {0};
    while (!stopped()) {
        bshm_frame frame = {0};
        bshm_reader_counters counters;
        int rc = bshm_reader_acquire(common, BSHM_ACQUIRE_SEEN, &frame, &error);
        if (rc == BSHM_E_CLOSED)
            break;
        if (rc == BSHM_FOUND) {
            if (!frame.to_copy)
                CHECK(shows(frame.pixels, frame.info.sequence));
            count(frames);
        }
        bshm_frame_release(&frame);
        (void)bshm_reader_status(common);
        bshm_reader_get_counters(common, &counters);
        bshm_reader_wait(common, 100000);
    }
    return NULL;
}

static void a_reader_may_be_shared_and_closed_under_its_users(void)
{
    pthread_t writing, reading[3];
    uint64_t frames[3] = {0};
    lines = SMALL_LINES;
    bshm_writer *writer = NULL;
    bshm_writer_options options = {.slot_capacity = (uint64_t)lines * LINE_BYTES, .slots = SLOTS, .mode = 0600};
    REQUIRE(bshm_writer_create(&writer, fixture_name, &options, &fixture_error) == BSHM_OK);
    common = new_reader(2);
    __atomic_store_n(&stop, 0, __ATOMIC_RELAXED);
    REQUIRE(pthread_create(&writing, NULL, write_until_stopped, writer) == 0);
    for (size_t i = 0; i < 3; i++)
        REQUIRE(pthread_create(&reading[i], NULL, share_a_reader, &frames[i]) == 0);
    bshm_os_sleep(ROUND_NS / 4);
    for (size_t i = 0; i < 3; i++)
        await_some(&frames[i]);
    bshm_reader_close(common); /* while they acquire, hold and wait */
    for (size_t i = 0; i < 3; i++)
        (void)pthread_join(reading[i], NULL);
    __atomic_store_n(&stop, 1, __ATOMIC_RELAXED);
    (void)pthread_join(writing, NULL);
    printf("    frames: %llu, %llu, %llu\n", (unsigned long long)frames[0], (unsigned long long)frames[1],
           (unsigned long long)frames[2]);
    bshm_reader_free(common);
    bshm_writer_free(writer);
}

#define PATIENCE_NS INT64_C(20000000000)

static void *wait_for_a_change(void *word)
{
    bshm_os_wait(word, 0, PATIENCE_NS);
    return NULL;
}

/* One wake for all: those that sleep, and those that are about to, which see that the word has changed. */
static void every_waiter_is_woken_by_one_wake(void)
{
    pthread_t waiting[4];
    bshm_writer *writer = new_writer(SLOTS);
    window shared = open_window();
    bshm_shared32 *word = &shared.header->publication.notify;
    bshm_store_release32(word, 0);
    int64_t began = bshm_now_ns();
    for (size_t i = 0; i < 4; i++)
        REQUIRE(pthread_create(&waiting[i], NULL, wait_for_a_change, &word->shared) == 0);
    bshm_os_sleep(50000000);
    bshm_store_release32(word, 1);
    bshm_os_wake_all(&word->shared);
    for (size_t i = 0; i < 4; i++)
        (void)pthread_join(waiting[i], NULL);
    CHECK(bshm_now_ns() - began < PATIENCE_NS); /* none slept until its timeout */
    close_window(&shared);
    bshm_writer_free(writer);
}

int main(int argc, char **argv)
{
    fixture_begin(argc, argv);
    RUN(small_frames_are_whole_for_everyone);
    RUN(large_frames_are_whole_for_everyone);
    RUN(every_waiter_is_woken_by_one_wake);
    RUN(a_reader_may_be_shared_and_closed_under_its_users);
    return check_summary();
}
