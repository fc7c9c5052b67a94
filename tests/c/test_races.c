/* The pairs of operations that order the pixels, each alone, for ThreadSanitizer.
 *
 * Threads take turns by a relaxed counter. Relaxed operations order nothing, so ThreadSanitizer treats the turns as
 * chance, although the schedule is the same every time: if the pair under test did not order the plain accesses on both
 * sides of it, every run would report a race. (Without the sanitizer this program shows little.)
 *
 * GCC's ThreadSanitizer does not model atomic_thread_fence, and says so (-Wtsan, turned off by the build). That is
 * sound here, because nothing in this program needs a fence: a lease is ordered by read-modify-write pairs on the pin
 * word (R2 with W9, R6 with W3), by seq (R4 with W8) and by latest (R1 with W10). What does depend on fences (W5 with
 * R5's, W11 with R0) is for the models. There are no unpinned copies here: they race by design.
 */
#include "stage.h"

#include <pthread.h>
#include <sched.h>

static uint32_t turn;

static void await_turn(uint32_t mine)
{
    while (__atomic_load_n(&turn, __ATOMIC_RELAXED) != mine)
        (void)sched_yield();
}

static void end_turn(void)
{
    (void)__atomic_fetch_add(&turn, 1, __ATOMIC_RELAXED);
}

static stage *theatre;

/* Runs both threads, which share only the stage. `first` has the even turns, `second` the odd ones. */
static void play(void *(*first)(void *), void *(*second)(void *))
{
    pthread_t threads[2];
    theatre = new_stage(3);
    __atomic_store_n(&turn, 0, __ATOMIC_RELAXED);
    REQUIRE(pthread_create(&threads[0], NULL, first, NULL) == 0);
    REQUIRE(pthread_create(&threads[1], NULL, second, NULL) == 0);
    (void)pthread_join(threads[0], NULL);
    (void)pthread_join(threads[1], NULL);
    free(theatre);
}

/* Plain accesses, like those of pixels. */
static void paint(uint64_t n)
{
    theatre->pixels[0][0] = n;
    theatre->pixels[0][1] = n;
}

static void expect_painted(uint64_t n)
{
    CHECK_EQUAL(theatre->pixels[0][0], n);
    CHECK_EQUAL(theatre->pixels[0][1], n);
}

/* ---------------------------------------------------------------- from the writer to the readers */

static void *writer_lets_go(void *unused)
{
    await_turn(0);
    CHECK(bshm_step_claim_slot(&theatre->control, 0, 1));
    paint(1);
    bshm_step_clear_writing(&theatre->control, 0);
    end_turn();
    return unused;
}

static void *reader_pins(void *unused)
{
    await_turn(1);
    CHECK(bshm_step_pin(&theatre->control, 0, 0));
    expect_painted(1);
    end_turn();
    return unused;
}

static void a_reader_that_pins_sees_what_the_writer_drew_before_it_cleared_writing(void)
{
    play(writer_lets_go, reader_pins); /* R2 with W9 */
}

static void *writer_completes(void *unused)
{
    bshm_frame_info info = {.sequence = 1};
    await_turn(0);
    paint(1);
    bshm_step_store_descriptor(&theatre->header, 0, &info);
    bshm_step_end_write(&theatre->header, 0, 1);
    end_turn();
    return unused;
}

static void *reader_finds_it_complete(void *unused)
{
    uint64_t seq = 0;
    bshm_frame_info info = {0};
    await_turn(1);
    CHECK(bshm_step_load_descriptor(&theatre->header, 0, 1, &seq, &info));
    expect_painted(1);
    end_turn();
    return unused;
}

static void a_reader_that_finds_seq_even_sees_what_was_drawn_before(void)
{
    play(writer_completes, reader_finds_it_complete); /* R4 with W8 */
}

static void *writer_shows(void *unused)
{
    await_turn(0);
    paint(1);
    bshm_step_store_latest(&theatre->header, 0, 1);
    end_turn();
    return unused;
}

static void *reader_looks(void *unused)
{
    await_turn(1);
    CHECK_EQUAL(BSHM_LATEST_SEQUENCE(bshm_step_load_latest(&theatre->header)), 1);
    expect_painted(1);
    end_turn();
    return unused;
}

static void a_reader_that_has_a_frame_from_latest_sees_what_was_drawn_before(void)
{
    play(writer_shows, reader_looks); /* R1 with W10 */
}

static void *writer_notifies(void *unused)
{
    await_turn(0);
    paint(1);
    bshm_step_bump_notify(&theatre->header);
    end_turn();
    return unused;
}

static void *reader_is_woken(void *unused)
{
    await_turn(1);
    CHECK_EQUAL(bshm_load_acquire32(&theatre->header.publication.notify), 1);
    expect_painted(1);
    end_turn();
    return unused;
}

static void a_waiter_that_sees_notify_changed_sees_what_was_stored_before(void)
{
    play(writer_notifies, reader_is_woken); /* W12 with the waiter */
}

static void *writer_sets_state(void *unused)
{
    await_turn(0);
    paint(1);
    bshm_step_set_state(&theatre->header, BSHM_STATE_CLOSED);
    end_turn();
    return unused;
}

static void *reader_sees_state(void *unused)
{
    await_turn(1);
    CHECK_EQUAL(bshm_load_acquire32(&theatre->header.publication.state), BSHM_STATE_CLOSED);
    expect_painted(1);
    end_turn();
    return unused;
}

static void a_reader_that_sees_the_segment_closed_sees_its_last_frame(void)
{
    play(writer_sets_state, reader_sees_state);
}

/* ---------------------------------------------------------------- from the readers back to the writer */

static void *reader_unpins(void *unused)
{
    await_turn(0);
    CHECK(bshm_step_pin(&theatre->control, 0, 0));
    expect_painted(0);
    bshm_step_unpin(&theatre->control, 0, 0);
    end_turn();
    return unused;
}

static void *writer_claims(void *unused)
{
    await_turn(1);
    CHECK(bshm_step_claim_slot(&theatre->control, 0, 1));
    paint(2);
    end_turn();
    return unused;
}

static void the_writer_draws_only_after_the_last_read_of_a_reader_that_unpinned(void)
{
    play(reader_unpins, writer_claims); /* W3 with R6 */
}

static void *reader_holds_on(void *unused)
{
    await_turn(0);
    CHECK(bshm_step_pin(&theatre->control, 0, 0));
    expect_painted(0);
    end_turn();
    await_turn(2);
    expect_painted(0);
    bshm_step_unpin(&theatre->control, 0, 0);
    end_turn();
    return unused;
}

static void *writer_tries_twice(void *unused)
{
    await_turn(1);
    CHECK(!bshm_step_claim_slot(&theatre->control, 0, 1));
    end_turn();
    await_turn(3);
    CHECK(bshm_step_claim_slot(&theatre->control, 0, 1));
    paint(2);
    return unused;
}

static void a_claim_that_failed_first_is_still_ordered(void)
{
    play(reader_holds_on, writer_tries_twice);
}

/* Two owners, one after another, in one thread: in reality the kernel orders them, by handing over the lock. */
static void *owner_dies_and_the_next_clears(void *unused)
{
    await_turn(0);
    CHECK(bshm_step_pin(&theatre->control, 0, 0));
    expect_painted(0); /* and then SIGKILL: the pin stays */
    bshm_step_clear_token(&theatre->control, 0, 3);
    end_turn();
    return unused;
}

static void the_writer_draws_only_after_the_last_look_of_a_dead_owner_whose_pin_the_next_cleared(void)
{
    play(owner_dies_and_the_next_clears, writer_claims); /* R0 */
}

/* ---------------------------------------------------------------- references */

static uint32_t references;
static uint64_t kept;

static void *holder_drops(void *unused)
{
    await_turn(0);
    kept = 7; /* plain: what a holder does before it drops its reference */
    CHECK(!bshm_reference_drop(&references));
    end_turn();
    return unused;
}

static void *last_holder_drops(void *unused)
{
    await_turn(1);
    CHECK(bshm_reference_drop(&references));
    CHECK_EQUAL(kept, 7);
    kept = 0; /* like free() */
    return unused;
}

static void the_thread_that_drops_the_last_reference_sees_what_the_others_did(void)
{
    references = 1;
    bshm_reference_take(&references);
    play(holder_drops, last_holder_drops);
}

/* ---------------------------------------------------------------- all together, by chance */

#define ROUNDS 20000u

typedef struct shift {
    uint32_t token;
    uint64_t frames, refused;
} shift;

static uint32_t writer_is_done;

static void *write_frames(void *unused)
{
    uint32_t order[STAGE_SLOTS];
    for (uint32_t slot = 0; slot < theatre->slots; slot++)
        order[slot] = slot;
    for (uint64_t n = 1; n <= ROUNDS; n++) {
        uint32_t at = 0;
        uint32_t latest = BSHM_LATEST_SLOT(bshm_step_load_latest(&theatre->header));
        while (at < theatre->slots && ((n > 1 && order[at] == latest) ||
                                       !bshm_step_claim_slot(&theatre->control, order[at], theatre->slots - 2)))
            at++;
        if (!CHECK(at < theatre->slots)) /* one pass always finds a slot */
            break;
        uint32_t slot = order[at];
        bshm_step_begin_write(&theatre->header, slot, n);
        draw(theatre, slot, n);
        bshm_step_end_write(&theatre->header, slot, n);
        bshm_step_clear_writing(&theatre->control, slot);
        bshm_step_store_latest(&theatre->header, slot, n);
        bshm_step_bump_notify(&theatre->header);
        memmove(&order[1], &order[0], at * sizeof order[0]);
        order[0] = slot;
        if (n % 16 == 0)
            (void)sched_yield();
    }
    __atomic_store_n(&writer_is_done, 1, __ATOMIC_RELAXED);
    return unused;
}

static void *read_frames(void *given)
{
    shift *mine = given;
    uint64_t seen = 0;
    while (!__atomic_load_n(&writer_is_done, __ATOMIC_RELAXED) || seen < ROUNDS) {
        uint64_t seq = 0;
        bshm_frame_info info = {0};
        uint32_t notify = bshm_load_acquire32(&theatre->header.publication.notify);
        bshm_step_fence_token();
        uint64_t latest = bshm_step_load_latest(&theatre->header);
        uint32_t slot = BSHM_LATEST_SLOT(latest);
        if (!CHECK(BSHM_LATEST_SEQUENCE(latest) >= notify)) /* one number more each: `latest` goes before `notify` */
            break;
        if (BSHM_LATEST_SEQUENCE(latest) <= seen) {
            (void)sched_yield();
            continue;
        }
        if (!bshm_step_pin(&theatre->control, slot, mine->token)) {
            mine->refused++;
            continue;
        }
        if (bshm_step_load_descriptor(&theatre->header, slot, BSHM_LATEST_SEQUENCE(latest), &seq, &info)) {
            seen = seq >> 1;
            mine->frames++;
            CHECK(holds_frame(theatre, slot, seen) && info.sequence == seen);
            if (mine->frames % 8 == 0)
                (void)sched_yield(); /* hold it for a while */
            CHECK(holds_frame(theatre, slot, seen));
            CHECK(bshm_step_seq_unchanged(&theatre->header, slot, seq));
        } else {
            mine->refused++;
        }
        bshm_step_unpin(&theatre->control, slot, mine->token);
    }
    return NULL;
}

static void leases_by_chance_are_free_of_races(void)
{
    pthread_t threads[3];
    shift shifts[2] = {{.token = 0}, {.token = 1}};
    theatre = new_stage(4);
    __atomic_store_n(&writer_is_done, 0, __ATOMIC_RELAXED);
    REQUIRE(pthread_create(&threads[0], NULL, read_frames, &shifts[0]) == 0);
    REQUIRE(pthread_create(&threads[1], NULL, read_frames, &shifts[1]) == 0);
    REQUIRE(pthread_create(&threads[2], NULL, write_frames, NULL) == 0);
    for (int i = 0; i < 3; i++)
        (void)pthread_join(threads[i], NULL);
    printf("    %u frames written; read: %llu and %llu; pins taken back: %llu and %llu\n", ROUNDS,
           (unsigned long long)shifts[0].frames, (unsigned long long)shifts[1].frames,
           (unsigned long long)shifts[0].refused, (unsigned long long)shifts[1].refused);
    CHECK(shifts[0].frames > 0 && shifts[1].frames > 0);
    free(theatre);
}

int main(void)
{
    RUN(a_reader_that_pins_sees_what_the_writer_drew_before_it_cleared_writing);
    RUN(a_reader_that_finds_seq_even_sees_what_was_drawn_before);
    RUN(a_reader_that_has_a_frame_from_latest_sees_what_was_drawn_before);
    RUN(a_waiter_that_sees_notify_changed_sees_what_was_stored_before);
    RUN(a_reader_that_sees_the_segment_closed_sees_its_last_frame);
    RUN(the_writer_draws_only_after_the_last_read_of_a_reader_that_unpinned);
    RUN(a_claim_that_failed_first_is_still_ordered);
    RUN(the_writer_draws_only_after_the_last_look_of_a_dead_owner_whose_pin_the_next_cleared);
    RUN(the_thread_that_drops_the_last_reference_sees_what_the_others_did);
    RUN(leases_by_chance_are_free_of_races);
    return check_summary();
}
