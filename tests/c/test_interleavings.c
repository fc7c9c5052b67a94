/* Every interleaving of a writer, lease readers and a copier over a few frames, with a kill between any two steps and
 * a cancelled loan: a search over the states that the real functions of csrc/protocol.h reach. It finds errors in the
 * *steps*; errors in their memory orderings are for test_races.c and the models.
 *
 * A state is a few bytes. Each action loads the state into the stage, takes one step, and stores it back. The search
 * is breadth first, so a violation is printed with a shortest path to it.
 */
#include "stage.h"

#define SLOTS   5u /* at most */
#define READERS 2u

enum writer_step {
    W_CLAIM,
    W_SWAP,
    W_BEGIN,
    W_DRAW_FIRST,
    W_DRAW_LAST,
    W_COMPLETE,
    W_LET_GO,
    W_SHOW,
    W_NOTIFY,
    W_DEAD
};
enum reader_step { R_LOOK, R_FIND, R_PIN, R_DESCRIBE, R_UNPIN, R_HOLD, R_DEAD };
enum copier_step { C_LOOK, C_FIND, C_DESCRIBE, C_FIRST, C_LAST, C_CHECK };

/* Bytes only, no padding: states are compared by memcmp. */
typedef struct state {
    uint8_t pin[SLOTS]; /* bit 7: WRITING */
    uint8_t seq[SLOTS];
    uint8_t described[SLOTS];
    uint8_t first[SLOTS], last[SLOTS];
    uint8_t latest_n, latest_slot;
    uint8_t shown; /* the highest number read so far */
    struct {
        uint8_t step, n, candidate, slot, seen_word, order[SLOTS], frames_left, cancels_left, deaths_left, window;
    } writer;
    struct {
        uint8_t step, n, slot, seen, reads_left, deaths_left, cleared, exact;
    } reader[READERS];
    struct {
        uint8_t step, n, slot, seq, described, first, last, seen, reads_left, exact;
    } copier;
} state;

/* One search. `fine`: compound steps are split (W2 and W3, R2 and R3, the clearing slot by slot). */
typedef struct scenario {
    const char *what;
    uint8_t slots, readers, frames, reads, copies, cancels, reader_deaths, writer_deaths;
    bool fine;
    uint8_t history; /* then readers and copiers ask for any frame of the window */
} scenario;

typedef struct node {
    state at;
    uint32_t parent;
    const char *action;
} node;

static const scenario *now;
static stage *theatre;
static node *nodes;
static uint32_t node_count, node_room;
static uint32_t *table; /* node + 1 */
static uint32_t table_size;
static const char *violation;

/* ---------------------------------------------------------------- between states and the stage */

static uint64_t wide(uint8_t pin)
{
    return (pin & 0x7Fu) | (pin & 0x80u ? BSHM_PIN_WRITING : 0);
}

static uint8_t narrow(uint64_t pin)
{
    return (uint8_t)((pin & 0x7Fu) | (pin & BSHM_PIN_WRITING ? 0x80u : 0));
}

static void put_on_stage(const state *s)
{
    for (uint32_t slot = 0; slot < now->slots; slot++) {
        bshm_store_relaxed(&theatre->control.pins[slot].word, wide(s->pin[slot]));
        bshm_store_relaxed(&theatre->header.descriptors[slot].seq, s->seq[slot]);
        bshm_store_relaxed(&theatre->header.descriptors[slot].info[0], s->described[slot]);
        theatre->pixels[slot][0] = s->first[slot];
        theatre->pixels[slot][1] = s->last[slot];
    }
    bshm_store_relaxed(&theatre->header.publication.latest, BSHM_LATEST(s->latest_n, s->latest_slot));
}

static void read_back(state *s)
{
    for (uint32_t slot = 0; slot < now->slots; slot++) {
        s->pin[slot] = narrow(stage_pin(theatre, slot));
        s->seq[slot] = (uint8_t)stage_seq(theatre, slot);
        s->described[slot] = (uint8_t)bshm_load_relaxed(&theatre->header.descriptors[slot].info[0]);
        s->first[slot] = (uint8_t)theatre->pixels[slot][0];
        s->last[slot] = (uint8_t)theatre->pixels[slot][1];
    }
    uint64_t latest = bshm_load_relaxed(&theatre->header.publication.latest);
    s->latest_n = (uint8_t)BSHM_LATEST_SEQUENCE(latest);
    s->latest_slot = (uint8_t)BSHM_LATEST_SLOT(latest);
}

static uint32_t tokens(void)
{
    return now->slots - 2u - now->history;
}

/* ---------------------------------------------------------------- the writer */

static void next_candidate(state *s)
{
    s->writer.step = W_CLAIM;
    if (++s->writer.candidate == now->slots)
        violation = "one pass over the slots found none";
}

static void claimed(state *s, uint8_t slot)
{
    s->writer.slot = slot;
    s->writer.candidate = s->writer.window;
    s->writer.step = W_BEGIN;
}

static void shown_goes_first(state *s)
{
    uint8_t at = 0;
    while (s->writer.order[at] != s->writer.slot)
        at++;
    for (; at > 0; at--)
        s->writer.order[at] = s->writer.order[at - 1];
    s->writer.order[0] = s->writer.slot;
}

static const char *writer_claims(state *s)
{
    uint8_t slot = s->writer.order[s->writer.candidate];
    if (now->fine) {
        uint64_t word = bshm_load_relaxed(&theatre->control.pins[slot].word);
        s->writer.seen_word = narrow(word);
        if (word & BSHM_TOKEN_MASK(tokens()))
            next_candidate(s);
        else
            s->writer.step = W_SWAP;
        return "writer: W2";
    }
    if (bshm_step_claim_slot(&theatre->control, slot, tokens()))
        claimed(s, slot);
    else
        next_candidate(s);
    return "writer: W2, W3";
}

static const char *writer_acts(state *s)
{
    uint8_t slot = s->writer.slot;
    uint8_t n = s->writer.n;
    bshm_frame_info info = {.sequence = n};
    switch (s->writer.step) {
    case W_CLAIM:
        return s->writer.frames_left ? writer_claims(s) : NULL;
    case W_SWAP:
        slot = s->writer.order[s->writer.candidate];
        if (bshm_claim_acquire(&theatre->control.pins[slot].word, wide(s->writer.seen_word), BSHM_PIN_WRITING))
            claimed(s, slot);
        else
            next_candidate(s);
        s->writer.seen_word = 0;
        return "writer: W3";
    case W_BEGIN:
        bshm_step_begin_write(&theatre->header, slot, n);
        s->writer.step = W_DRAW_FIRST;
        return "writer: W4, W5";
    case W_DRAW_FIRST:
        theatre->pixels[slot][0] = n;
        s->writer.step = W_DRAW_LAST;
        return "writer: W6, first pixels";
    case W_DRAW_LAST:
        theatre->pixels[slot][1] = n;
        bshm_step_store_descriptor(&theatre->header, slot, &info);
        s->writer.step = W_COMPLETE;
        return "writer: W6, last pixels and descriptor";
    case W_COMPLETE:
        bshm_step_end_write(&theatre->header, slot, n);
        s->writer.step = W_LET_GO;
        return "writer: W7, W8";
    case W_LET_GO:
        bshm_step_clear_writing(&theatre->control, slot);
        s->writer.step = W_SHOW;
        return "writer: W9";
    case W_SHOW:
        bshm_step_store_latest(&theatre->header, slot, n);
        s->writer.step = W_NOTIFY;
        return "writer: W10";
    case W_NOTIFY:
        bshm_step_bump_notify(&theatre->header);
        shown_goes_first(s);
        s->writer.window = (uint8_t)(s->writer.window + (s->writer.window <= now->history));
        s->writer.candidate = s->writer.window;
        s->writer.step = W_CLAIM;
        s->writer.n++;
        s->writer.frames_left--;
        return "writer: W11, W12";
    default:
        return NULL;
    }
}

static const char *writer_cancels(state *s)
{
    if (s->writer.step != W_COMPLETE || !s->writer.cancels_left)
        return NULL;
    bshm_step_clear_writing(&theatre->control, s->writer.slot);
    s->writer.cancels_left--;
    s->writer.step = W_CLAIM;
    return "writer: cancels";
}

static const char *writer_dies(state *s)
{
    if (!s->writer.deaths_left || s->writer.step == W_DEAD)
        return NULL;
    s->writer.deaths_left = 0;
    s->writer.step = W_DEAD;
    return "writer: killed";
}

/* ---------------------------------------------------------------- readers with a token, and the owners after them */

static const char *next_owner_clears(state *s, uint32_t token)
{
    if (!now->fine) {
        bshm_step_clear_token(&theatre->control, token, now->slots);
        s->reader[token].cleared = now->slots;
    } else {
        bshm_clear_release(&theatre->control.pins[s->reader[token].cleared].word, UINT64_C(1) << token);
        s->reader[token].cleared++;
    }
    if (s->reader[token].cleared == now->slots)
        s->reader[token].step = R_LOOK;
    return "next owner: R0";
}

static const char *reader_pins(state *s, uint32_t token)
{
    uint8_t slot = s->reader[token].slot;
    if (now->fine) {
        uint64_t before = bshm_pin_acquire_release(&theatre->control.pins[slot].word, UINT64_C(1) << token);
        s->reader[token].step = before & BSHM_PIN_WRITING ? R_UNPIN : R_DESCRIBE;
        return "reader: R2";
    }
    s->reader[token].step = bshm_step_pin(&theatre->control, slot, token) ? R_DESCRIBE : R_LOOK;
    return "reader: R2, R3";
}

static const char *reader_describes(state *s, uint32_t token)
{
    uint64_t seq = 0;
    bshm_frame_info info = {0};
    if (!bshm_step_load_descriptor(&theatre->header, s->reader[token].slot, s->reader[token].n, &seq, &info) ||
        (s->reader[token].exact && seq != 2u * s->reader[token].n)) {
        s->reader[token].step = R_UNPIN;
        return "reader: R4, refused";
    }
    s->reader[token].n = (uint8_t)(seq >> 1);
    s->reader[token].step = R_HOLD;
    if (info.sequence != seq >> 1)
        violation = "a lease with the descriptor of another frame";
    if (seq >> 1 <= s->reader[token].seen && !s->reader[token].exact)
        violation = "a reader got a frame again";
    if (seq >> 1 > s->shown)
        s->shown = (uint8_t)(seq >> 1);
    return "reader: R4";
}

/* The slot of frame n, which is in the window of the newest frame: it must be there. */
static uint8_t slot_in_window(uint8_t n)
{
    uint32_t slot = bshm_step_find_frame(&theatre->header, n, now->slots);
    uint64_t latest = bshm_step_load_latest(&theatre->header);
    if (slot == now->slots && n + now->history >= BSHM_LATEST_SEQUENCE(latest))
        violation = "a frame of the window is not to be found";
    return (uint8_t)slot;
}

/* R1 of a frame before the newest. */
static const char *reader_looks_back(state *s, uint32_t token, uint32_t back)
{
    if (s->reader[token].step != R_LOOK || !s->reader[token].reads_left || back > now->history)
        return NULL;
    bshm_step_fence_token();
    uint64_t n = BSHM_LATEST_SEQUENCE(bshm_step_load_latest(&theatre->header));
    if (n <= back)
        return NULL;
    s->reader[token].n = (uint8_t)(n - back);
    s->reader[token].exact = 1;
    s->reader[token].step = R_FIND;
    return "reader: R1, an earlier frame";
}

static const char *reader_finds(state *s, uint32_t token)
{
    s->reader[token].slot = slot_in_window(s->reader[token].n);
    s->reader[token].step = s->reader[token].slot == now->slots ? R_LOOK : R_PIN;
    return "reader: R1, its slot";
}

static const char *reader_acts(state *s, uint32_t token)
{
    uint64_t latest;
    switch (s->reader[token].step) {
    case R_LOOK:
        bshm_step_fence_token();
        latest = bshm_step_load_latest(&theatre->header);
        if (!s->reader[token].reads_left || BSHM_LATEST_SEQUENCE(latest) <= s->reader[token].seen)
            return NULL;
        s->reader[token].n = (uint8_t)BSHM_LATEST_SEQUENCE(latest);
        s->reader[token].slot = (uint8_t)BSHM_LATEST_SLOT(latest);
        s->reader[token].exact = 0;
        s->reader[token].step = R_PIN;
        return "reader: R1";
    case R_FIND:
        return reader_finds(s, token);
    case R_PIN:
        return reader_pins(s, token);
    case R_DESCRIBE:
        return reader_describes(s, token);
    case R_UNPIN:
        bshm_step_unpin(&theatre->control, s->reader[token].slot, token);
        s->reader[token].step = R_LOOK;
        return "reader: R3";
    case R_HOLD:
        bshm_step_unpin(&theatre->control, s->reader[token].slot, token);
        if (s->reader[token].n > s->reader[token].seen)
            s->reader[token].seen = s->reader[token].n;
        s->reader[token].reads_left--;
        s->reader[token].step = R_LOOK;
        return "reader: R6";
    default:
        return next_owner_clears(s, token);
    }
}

static const char *reader_dies(state *s, uint32_t token)
{
    if (!s->reader[token].deaths_left || s->reader[token].step == R_DEAD)
        return NULL;
    s->reader[token].deaths_left--;
    s->reader[token].step = R_DEAD;
    s->reader[token].cleared = 0;
    s->reader[token].seen = 0;
    return "reader: killed";
}

/* ---------------------------------------------------------------- a reader without a token */

static const char *copier_looks_back(state *s)
{
    if (s->copier.step != C_LOOK || !s->copier.reads_left || !now->history)
        return NULL;
    uint64_t n = BSHM_LATEST_SEQUENCE(bshm_step_load_latest(&theatre->header));
    if (n < 2)
        return NULL;
    s->copier.n = (uint8_t)(n - 1);
    s->copier.exact = 1;
    s->copier.step = C_FIND;
    return "copier: R1, an earlier frame";
}

static const char *copier_acts(state *s)
{
    uint64_t latest, seq = 0;
    bshm_frame_info info = {0};
    switch (s->copier.step) {
    case C_LOOK:
        latest = bshm_step_load_latest(&theatre->header);
        if (!s->copier.reads_left || BSHM_LATEST_SEQUENCE(latest) <= s->copier.seen)
            return NULL;
        s->copier.n = (uint8_t)BSHM_LATEST_SEQUENCE(latest);
        s->copier.slot = (uint8_t)BSHM_LATEST_SLOT(latest);
        s->copier.exact = 0;
        s->copier.step = C_DESCRIBE;
        return "copier: R1";
    case C_FIND:
        s->copier.slot = slot_in_window(s->copier.n);
        s->copier.step = s->copier.slot == now->slots ? C_LOOK : C_DESCRIBE;
        return "copier: R1, its slot";
    case C_DESCRIBE:
        s->copier.step = C_LOOK;
        if (!bshm_step_load_descriptor(&theatre->header, s->copier.slot, s->copier.n, &seq, &info) ||
            (s->copier.exact && seq != 2u * s->copier.n))
            return "copier: seq, refused";
        s->copier.seq = (uint8_t)seq;
        s->copier.described = (uint8_t)info.sequence;
        s->copier.step = C_FIRST;
        return "copier: seq and descriptor";
    case C_FIRST:
        s->copier.first = (uint8_t)theatre->pixels[s->copier.slot][0];
        s->copier.step = C_LAST;
        return "copier: first pixels";
    case C_LAST:
        s->copier.last = (uint8_t)theatre->pixels[s->copier.slot][1];
        s->copier.step = C_CHECK;
        return "copier: last pixels";
    default:
        s->copier.step = C_LOOK;
        if (!bshm_step_seq_unchanged(&theatre->header, s->copier.slot, s->copier.seq))
            return "copier: torn";
        seq = s->copier.seq;
        if (s->copier.first != seq >> 1 || s->copier.last != seq >> 1 || s->copier.described != seq >> 1)
            violation = "a torn copy was taken for a frame";
        s->copier.seen = (uint8_t)(seq >> 1);
        s->copier.reads_left--;
        if (seq >> 1 > s->shown)
            s->shown = (uint8_t)(seq >> 1);
        return "copier: whole";
    }
}

/* ---------------------------------------------------------------- what must hold in every state */

static void check_state(const state *s)
{
    uint8_t mask = (uint8_t)BSHM_TOKEN_MASK(tokens());
    uint8_t highest = s->latest_n;
    uint32_t pinned = 0;
    for (uint32_t slot = 0; slot < now->slots; slot++) {
        pinned += (s->pin[slot] & mask) != 0;
        if ((s->seq[slot] + 1) / 2 > highest)
            highest = (uint8_t)((s->seq[slot] + 1) / 2);
    }
    if (pinned > tokens())
        violation = "more slots pinned than there are tokens";
    if (s->shown > highest)
        violation = "a frame was seen that a successor would not count on from";
    for (uint32_t token = 0; token < now->readers; token++) {
        uint32_t places = 0;
        if (s->reader[token].step == R_DEAD)
            continue;
        for (uint32_t slot = 0; slot < now->slots; slot++)
            places += s->pin[slot] >> token & 1u;
        if (places > 1)
            violation = "a token pins two slots";
        if (s->reader[token].step != R_HOLD)
            continue;
        uint8_t slot = s->reader[token].slot;
        uint8_t n = s->reader[token].n;
        if (s->first[slot] != n || s->last[slot] != n || s->described[slot] != n || s->seq[slot] != 2 * n)
            violation = "a view changed";
    }
    for (uint32_t n = s->latest_n; n > 0 && n + now->history >= s->latest_n; n--) {
        uint32_t slot = 0;
        while (slot < now->slots && s->seq[slot] != 2 * n)
            slot++;
        if (slot == now->slots || s->first[slot] != n || s->last[slot] != n || s->pin[slot] & 0x80u)
            violation = "a frame of the window was touched";
    }
    if (s->latest_n == 0)
        return;
    if (s->pin[s->latest_slot] & 0x80u)
        violation = "WRITING on the newest frame";
    if (s->seq[s->latest_slot] != 2 * s->latest_n || s->first[s->latest_slot] != s->latest_n ||
        s->last[s->latest_slot] != s->latest_n)
        violation = "the newest frame is not whole";
}

/* No process has anything left to do: no slot may be pinned by a living one, or be in writing. */
static void check_end(const state *s)
{
    for (uint32_t slot = 0; slot < now->slots; slot++) {
        if (s->pin[slot] & 0x7Fu)
            violation = "a pin stays after its reader is done";
        if (s->writer.step != W_DEAD && s->pin[slot] & 0x80u)
            violation = "WRITING stays after the writer is done";
    }
    if (s->writer.step != W_DEAD && s->latest_n != now->frames)
        violation = "a frame is missing";
}

/* ---------------------------------------------------------------- the search */

static uint32_t hash_of(const state *s)
{
    const uint8_t *bytes = (const uint8_t *)s;
    uint64_t hash = UINT64_C(0xcbf29ce484222325);
    for (size_t i = 0; i < sizeof *s; i++)
        hash = (hash ^ bytes[i]) * UINT64_C(0x100000001b3);
    return (uint32_t)(hash >> 29);
}

static uint32_t place_of(const state *s)
{
    uint32_t place = hash_of(s) & (table_size - 1);
    while (table[place] && memcmp(&nodes[table[place] - 1].at, s, sizeof *s) != 0)
        place = (place + 1) & (table_size - 1);
    return place;
}

static void grow(void)
{
    node_room = node_room ? 2 * node_room : 1u << 14;
    nodes = realloc(nodes, node_room * sizeof *nodes);
    table_size = 4 * node_room;
    free(table);
    table = calloc(table_size, sizeof *table);
    REQUIRE(nodes != NULL && table != NULL);
    for (uint32_t i = 0; i < node_count; i++)
        table[place_of(&nodes[i].at)] = i + 1;
}

static void remember(const state *s, uint32_t parent, const char *action)
{
    if (node_count == node_room)
        grow();
    uint32_t place = place_of(s);
    if (table[place])
        return;
    nodes[node_count] = (node){.at = *s, .parent = parent, .action = action};
    table[place] = ++node_count;
}

static void tell_way(uint32_t at, const char *last)
{
    static const char *way[512];
    uint32_t length = 0;
    for (; at != 0 && length < 512; at = nodes[at].parent)
        way[length++] = nodes[at].action;
    printf("    %s, after:\n", violation);
    while (length > 0)
        printf("      %s\n", way[--length]);
    printf("      %s\n", last);
}

typedef const char *(*action)(state *);

static const char *reader_0_acts(state *s)
{
    return reader_acts(s, 0);
}

static const char *reader_1_acts(state *s)
{
    return now->readers > 1 ? reader_acts(s, 1) : NULL;
}

static const char *reader_0_looks_one_back(state *s)
{
    return reader_looks_back(s, 0, 1);
}

static const char *reader_0_looks_two_back(state *s)
{
    return reader_looks_back(s, 0, 2);
}

static const char *reader_1_looks_one_back(state *s)
{
    return now->readers > 1 ? reader_looks_back(s, 1, 1) : NULL;
}

static const char *reader_0_dies(state *s)
{
    return reader_dies(s, 0);
}

static const char *reader_1_dies(state *s)
{
    return now->readers > 1 ? reader_dies(s, 1) : NULL;
}

static const action actions[] = {writer_acts,
                                 writer_cancels,
                                 writer_dies,
                                 reader_0_acts,
                                 reader_1_acts,
                                 reader_0_dies,
                                 reader_1_dies,
                                 copier_acts,
                                 copier_looks_back,
                                 reader_0_looks_one_back,
                                 reader_0_looks_two_back,
                                 reader_1_looks_one_back};

/* False: a violation was found and printed. */
static bool expand(uint32_t at)
{
    bool end = true;
    for (size_t i = 0; i < sizeof actions / sizeof actions[0]; i++) {
        state s = nodes[at].at;
        put_on_stage(&s);
        const char *taken = actions[i](&s);
        if (!taken)
            continue;
        end = false;
        read_back(&s);
        check_state(&s);
        if (violation) {
            tell_way(at, taken);
            return false;
        }
        remember(&s, at, taken);
    }
    if (end)
        check_end(&nodes[at].at);
    if (violation)
        tell_way(at, "(the end)");
    return !violation;
}

static void search(const scenario *searched)
{
    state start;
    memset(&start, 0, sizeof start);
    now = searched;
    violation = NULL;
    node_count = 0;
    theatre = new_stage(now->slots);
    start.writer.n = 1;
    start.writer.frames_left = now->frames;
    start.writer.cancels_left = now->cancels;
    start.writer.deaths_left = now->writer_deaths;
    for (uint8_t slot = 0; slot < now->slots; slot++)
        start.writer.order[slot] = slot;
    for (uint32_t token = 0; token < now->readers; token++) {
        start.reader[token].reads_left = now->reads;
        start.reader[token].deaths_left = now->reader_deaths;
        start.reader[token].cleared = now->slots;
    }
    start.copier.reads_left = now->copies;
    if (table)
        memset(table, 0, table_size * sizeof *table);
    remember(&start, 0, "");
    for (uint32_t at = 0; at < node_count; at++)
        if (!expand(at))
            break;
    CHECK(!violation);
    printf("    %s: %u states\n", now->what, node_count);
    free(theatre);
}

/* ---------------------------------------------------------------- scenarios */

/* slots, readers, frames, reads, copies, cancels, reader deaths, writer deaths, fine */

static void a_lease_holds_whatever_the_writer_does_and_the_writer_always_finds_a_slot(void)
{
    search(&(scenario){"one token, three slots", 3, 1, 8, 6, 0, 0, 0, 0, false, 0});
    search(&(scenario){"one token, three slots, steps in their parts", 3, 1, 8, 6, 0, 0, 0, 0, true, 0});
    search(&(scenario){"two tokens, four slots", 4, 2, 6, 2, 0, 0, 0, 0, false, 0});
    search(&(scenario){"two tokens, four slots, steps in their parts", 4, 2, 5, 2, 0, 0, 0, 0, true, 0});
}

static void a_cancelled_loan_is_never_taken_for_a_frame(void)
{
    search(&(scenario){"one token", 3, 1, 6, 4, 0, 3, 0, 0, true, 0});
    search(&(scenario){"two tokens", 4, 2, 4, 1, 0, 2, 0, 0, false, 0});
    search(&(scenario){"a copier", 3, 0, 6, 0, 3, 3, 0, 0, true, 0});
}

static void a_copy_that_is_taken_for_whole_is_whole(void)
{
    search(&(scenario){"a copier", 3, 0, 9, 0, 6, 1, 0, 0, true, 0});
    search(&(scenario){"a copier next to a token", 3, 1, 4, 2, 2, 1, 0, 0, true, 0});
}

static void readers_may_die_between_any_two_steps(void)
{
    search(&(scenario){"one token, killed three times", 3, 1, 5, 4, 0, 1, 3, 0, true, 0});
    search(&(scenario){"one token, killed twice, whole steps", 3, 1, 7, 4, 0, 0, 2, 0, false, 0});
    search(&(scenario){"two tokens, each killed once", 4, 2, 4, 1, 0, 0, 1, 0, false, 0});
}

static void the_writer_may_die_between_any_two_steps(void)
{
    search(&(scenario){"a token and a copier", 3, 1, 4, 2, 1, 1, 0, 1, false, 0});
    search(&(scenario){"a token, all may die", 3, 1, 5, 3, 0, 1, 2, 1, true, 0});
}

/* ..., fine, history */
static void the_window_is_left_alone_and_any_frame_of_it_can_be_read(void)
{
    search(&(scenario){"one token, one frame kept", 4, 1, 7, 4, 0, 0, 0, 0, true, 1});
    search(&(scenario){"one token, two frames kept", 5, 1, 7, 3, 0, 1, 0, 0, true, 2});
    search(&(scenario){"two tokens, one frame kept", 5, 2, 4, 1, 0, 0, 0, 0, false, 1});
    search(&(scenario){"a copier", 4, 0, 7, 0, 3, 2, 0, 0, true, 1});
    search(&(scenario){"all may die", 4, 1, 4, 2, 1, 1, 1, 1, false, 1});
}

int main(void)
{
    RUN(a_lease_holds_whatever_the_writer_does_and_the_writer_always_finds_a_slot);
    RUN(a_cancelled_loan_is_never_taken_for_a_frame);
    RUN(a_copy_that_is_taken_for_whole_is_whole);
    RUN(readers_may_die_between_any_two_steps);
    RUN(the_writer_may_die_between_any_two_steps);
    RUN(the_window_is_left_alone_and_any_frame_of_it_can_be_read);
    free(nodes);
    free(table);
    return check_summary();
}
