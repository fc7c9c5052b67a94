/* billiards_shm.h - one writer, many readers, frames in shared memory.
 *
 * This header is the whole specification: the layout of a segment, the protocol (steps W1..W12 and R0..R6, which the
 * code cites), and the functions. You can write another implementation from it alone. It uses plain fixed-width types,
 * so C++ and other languages can use it unchanged.
 *
 * Promises:
 *   1. a view never changes            4. SIGKILL of any process leaves all others working
 *   2. no reader stalls the writer     5. memory is bounded, and missing memory is an error, never SIGBUS
 *   3. a reader never crashes          6. a late reader gets the newest frame immediately
 *
 * "Load", "store", "fence" and the orders (relaxed, acquire, release, seq_cst) are those of C11. "Object" is the file
 * behind a segment, "owner" a process that holds a kernel lock.
 *
 *
 * NAMES AND PATHS
 *
 *   A name has 1 to 64 characters: letters, digits, '.', '_', '-'; not "." and "..". It leads to the file
 *   <directory>/<name>. The directory is /dev/shm on Linux, `getconf DARWIN_USER_TEMP_DIR`billiards_shm on macOS, and
 *   %LOCALAPPDATA%\Temp\billiards_shm on Windows. A name with a slash in it is the path of the file itself; a name
 *   whose only slash is in front ("/name") is refused. On file systems whose locks do not die with their process (NFS,
 *   SMB, FUSE, 9p, Ceph, Lustre, AFS) no segment is created or opened.
 *
 *
 * ONE OBJECT
 *
 *   offset 0          header region    64 KiB   identity; publication; statistics; slot descriptors
 *   control_offset    control region   64 KiB   one pin word per slot; table of readers
 *   pixels_offset     slots            slot_count * slot_stride
 *
 *   Regions and slots start on 64 KiB boundaries because pages of 16 and 64 KiB exist. Integers are in the byte order
 *   of the machine (`byte_order`). Bytes that belong to no field are zero. The object has its full size from the start,
 *   but only the header, the control region and slots 0 to backed_slots - 1 have memory: 3 + H slots at first, then one
 *   more at a time, always the lowest, before it is claimed for the first time (W1). A slot that has memory keeps it
 *   while its writer lives. Slot s starts at pixels_offset + s * slot_stride. Touch a slot only after `latest` has
 *   named it, or where lseek SEEK_HOLE finds no hole in it: touching a hole takes memory, and raises SIGBUS on a full
 *   tmpfs.
 *
 *   Readers map the header and the pixels read-only and the control region read-write. A reader that may open the
 *   object only for reading is an *observer*: it maps no control region, takes no token, and always copies.
 *
 *
 * LOCKS
 *
 *   Locks are on single bytes far beyond the end of the object, taken without waiting. They belong to the kernel and
 *   end with their process, so they decide who is alive, never a pid or a heartbeat. On Linux and macOS they are locks
 *   of open file descriptions (F_OFD_SETLK, F_OFD_GETLK), on Windows LockFileEx.
 *
 *   BSHM_WRITER_BYTE            write lock: the writer, from before the object has its name until it closes
 *   BSHM_TOKEN_BYTE + t         write lock: the owner of token t
 *   BSHM_READER_BYTE + i        write lock: the reader of entry readers[i], i < 256, which it fills after that. If all
 *                               256 are taken, it reads without an entry
 *   BSHM_READER_BYTE + 256 + i  read lock: an observer, i < 256, on a byte that no other process has: once it is
 *                               locked, ask for a write lock with F_OFD_GETLK; if another has it too, release it, try
 *                               another
 *
 *   Only a *write* lock owns a byte: ask with F_OFD_GETLK for a read lock (l_type comes back as F_UNLCK: no
 *   owner). A process that may only read the object can put read locks anywhere, so they prove nothing. Never ask
 *   through a description for a lock that it already has.
 *
 *   A lock dies with the last descriptor *and mapping* of its open file description, so a forked child keeps it alive
 *   too. So use a separate description for locks. Open it with O_CLOEXEC. Whatever you map through it (writer: header
 *   and control; reader: control), map with MADV_DONTFORK. In a forked child, close it before anything else, without
 *   unlocking, which would unlock the parent's. Map the pixels, and a reader's header, through a second
 *   description without locks. In the child, close that one too, and map zeros over what no view needs; otherwise the
 *   child keeps the memory of a segment that is replaced later. An observer has only one description; it has no views,
 *   so nothing of it stays in a child. No fork may happen between opening or mapping a file and telling the fork
 *   handler about it, nor between closing it and telling: by then its number may refer to another file.
 *
 *
 * SLOTS, PINS, TOKENS
 *
 *   There are S slots, L lease tokens (`token_count`), and a history of H frames; S = L + 2 + H. Token t is bit t of
 *   every slot's pin word; bit 63 is WRITING.
 *
 *   The window of the newest frame n is frames n - H to n, as far as they belong to this object (above
 *   base_sequence). The writer leaves their slots alone, so S - (H + 1) = L + 1 slots are candidates for its next
 *   frame. A token pins at most one slot, and is only put on slots of the window; so at most L of those candidates are
 *   pinned, and one is always free. One pass over them finds it, even while readers pin and unpin: `latest` does not
 *   move during a claim, so only a reader that loaded it before it moved can pin a candidate, and only one candidate
 *   for each token, because that reader loads `latest` again before it pins another slot (R0, R1). A new owner of a
 *   token first clears the token's bit in every slot: that reclaims everything that a killed reader left. So a writer
 *   that gets no memory for another slot (W1), and one that punches (PUNCHING), becomes the owner of each token that
 *   has none: lock its byte, clear its bit in every slot, unlock.
 *
 *
 * WRITER, one thread at a time
 *
 *   W1   candidates: slots with memory, most recently published first, never those of the window; then one more, which
 *        gets memory (if that is refused: clear the tokens without an owner and try the others again, else the frame
 *        is dropped)
 *   W2   w = load(pin[s], relaxed); any token bit set: next candidate; bits that are not tokens do not count
 *   W3   strong CAS(pin[s], w -> WRITING, acquire / relaxed); failed: next candidate
 *   W4   store(seq[s], 2n-1, relaxed)                                    odd: being written
 *   W5   fence(seq_cst)                                                  W4 before every pixel
 *   W6   the pixels; the descriptor by relaxed stores
 *   W7   fence(seq_cst)                                                  also orders non-temporal stores
 *   W8   store(seq[s], 2n, release)                                      even: frame n complete
 *   W9   fetch_and(pin[s], ~WRITING, release)                            before W10: a reader of n finds no WRITING
 *   W10  store(latest, n << 6 | s, release)
 *   W11  fence(seq_cst)                                                  pairs with R0
 *   W12  store(notify, notify + 1, release); futex wake of all
 *
 *   n is the number of the last frame + 1; the first is base_sequence + 1. A cancelled loan leaves seq odd, clears
 *   WRITING and does not use n up. If all slots have memory and S passes over them find none free (only forged pins
 *   can cause that), the writer exchanges the pin of the least recently published one for WRITING, and counts
 *   `leases_broken`. It does the same, without counting, to a slot that was just given memory and is already pinned.
 *
 *
 * READER WITH A LEASE, one thread at a time
 *
 *        load(latest, acquire) first: if there is nothing new, return; this pins nothing
 *   R0   own a token that pins nothing: one that was kept, or a new one (lock its byte, then
 *        fetch_and(pin[i], ~token, release) for every slot i); fence(seq_cst)   pairs with W11
 *   R1   L = load(latest, acquire); n = L >> 6, s = L & 63; n <= seen: nothing new; check s
 *   R2   fetch_or(pin[s], token, acq_rel); p = load(pin[s], acquire)
 *   R3   p has WRITING: fetch_and(pin[s], ~token, release) and start again from R0, at most BSHM_READ_ATTEMPTS times,
 *        then copy without a lease
 *   R4   q = load(seq[s], acquire); odd or < 2n: unpin and try again as in R3. Else copy the descriptor (relaxed
 *        loads) and validate the copy. q > 2n: the slot was published again since R1. The frame's number is q/2,
 *        whatever R1 and the descriptor say, and `seen` becomes q/2
 *   R5   intact(view): fence(acquire); load(seq[s], relaxed) == q        false only under attack, or after a bug
 *   R6   last view gone: fetch_and(pin[s], ~token, release)
 *
 *   A frame that this reader has already pinned needs no second token: R1; if its slot is s and q == 2n, this is one
 *   more view on that pin.
 *
 *
 * READER OF THE WINDOW
 *
 *        Frame m, with its own token as in R0: R1 gives n; if m + H < n, m <= base_sequence or m > n, it is outside. s
 *        is the slot with load(seq[s], relaxed) == 2m; if there is none, m has been overwritten or punched out, and
 *        does not come back. R2, R3. R4 accepts only q == 2m. After a failure choose again from R0, with a new
 *        `latest`: a slot that was chosen before a pin was withdrawn may be a candidate by now, and the token would
 *        block a second one.
 *
 *        Every frame in turn: the very first frame is the newest; from then on, in later objects too, m is the higher
 *        of seen + 1 and the first of the window; m above n: nothing new. A frame that is gone is left out and counts
 *        as missed. Numbers have no other gaps inside an object: a cancelled loan uses none up. All of an object is
 *        read before moving on (ATTACHING AND MOVING ON).
 *
 *
 * READER WITHOUT A LEASE
 *
 *        R1; q = load(seq[s], acquire), odd or < 2n: retry; copy the descriptor by relaxed loads; fence(acquire); seq
 *        unchanged, else retry, at most BSHM_READ_ATTEMPTS times (for a frame of the window: R1 as above; q == 2m or
 *        gone). Validate the copy. Then the pixels by pread; fence(acquire); seq unchanged, else begin again. By pread,
 *        because a slot that is not pinned may be punched out of the object (see PUNCHING) or cut off, and touching it
 *        in a mapping would then raise SIGBUS.
 *
 *        Observers read like this, and so do readers that find every token taken. Any other copy takes a token, pins
 *        for the length of the copy, and releases the token.
 *
 *
 * WAITING
 *
 *        v = load(notify, acquire), before `latest`; nothing new: FUTEX_WAIT on `notify` while it is v, then look
 *        again. The futex is a shared one (no FUTEX_PRIVATE_FLAG): the word is in another process's mapping too.
 *        Every change of `state` also bumps `notify` and wakes. A killed writer wakes no one, so wait 100 ms at most,
 *        then check whether the segment was replaced (ATTACHING AND MOVING ON). Wait this way only while the state is
 *        LIVE: for a successor, sleep.
 *
 *
 * FENCES AND ORDERS, with the outcome that each excludes
 *
 *   W3 acquire, R6 release    the writer's new pixels are seen by a view that was released before the claim
 *   R0 release of the clear   the same, for a view that an earlier owner of the token had
 *   W5, R5's fence            a copy has a new pixel in it, yet both of its loads of seq returned the old even number
 *   W7, W8 release, R4        a reader sees 2n, but not all of frame n's descriptor and pixels
 *   W9 release, R2 acquire    a reader finds WRITING cleared, but not all that the writer did while it was set
 *   W10 release, R1 acquire   a reader knows n from `latest`, but finds seq older than 2n, or n's WRITING
 *   W11, R0 fence             a reader loads `latest` from before W10, and the next claim loads pins from before R0:
 *                             the token could then block two candidates of one claim, and the writer find no free slot
 *   W12 release, waiter       a waiter has the new `notify`, but the old `latest`, and sleeps through the frame
 *
 *
 * FRAMES
 *
 *   Geometry is per frame; any that fits slot_capacity may follow any other. Row y starts at y * row_stride; a row
 *   has width * channels * item_size bytes, without gaps between pixels; what row_stride adds is padding with no
 *   meaning. payload_bytes is what the frame takes up in its slot, at least (height - 1) * row_stride + one row;
 *   padding after the last row may or may not count. This writer adds no padding: payload_bytes = height * row_stride.
 *   `fourcc` is V4L2's code for the layout, little-endian. A reader treats a code that it does not know, or that does
 *   not fit the array, as RAW:
 *
 *     name          fourcc   array of
 *     BGR24         'BGR3'   (h, w, 3) bytes
 *     RGB24         'RGB3'   (h, w, 3) bytes
 *     BGRA32        'AR24'   (h, w, 4) bytes
 *     GRAY8         'GREY'   (h, w) or (h, w, 1) bytes
 *     GRAY16        'Y16 '   (h, w) or (h, w, 1) of uint16
 *     YUYV          'YUYV'   (h, w, 2) bytes: Y, then U and V in turn
 *     UYVY          'UYVY'   (h, w, 2) bytes: U and V in turn, then Y
 *     NV12          'NV12'   (h * 3 / 2, w) bytes: Y, then U and V in turn; h and w are even, here and in the next four
 *     NV21          'NV21'   (h * 3 / 2, w) bytes: Y, then V and U in turn
 *     I420          'YU12'   (h * 3 / 2, w) bytes: Y, then U, then V
 *     YV12          'YV12'   (h * 3 / 2, w) bytes: Y, then V, then U
 *     P010          'P010'   (h * 3 / 2, w) of uint16: as NV12, 10 bits, the upper ones
 *     BAYER_RGGB8   'RGGB'   (h, w) bytes, one colour each: R G in the first row, G B in the second, and so on
 *     BAYER_BGGR8   'BA81'   (h, w) bytes: B G, G R
 *     BAYER_GRBG8   'GRBG'   (h, w) bytes: G R, B G
 *     BAYER_GBRG8   'GBRG'   (h, w) bytes: G B, R G
 *     MJPG          'MJPG'   (1, n) bytes: one JPEG
 *     RAW           'RAW '   anything else
 *
 *
 * CREATION AND TAKE-OVER
 *
 *   A name is replaced or removed only by a process that holds BSHM_WRITER_BYTE of the object the name leads to.
 *
 *   1. Look at the name, as in 5, and release the object again: a foreign file (no magic) or a living writer is an
 *      error.
 *   2. Create "<directory of the object>/.bshm-<16 hex digits, random>~" with O_EXCL, mode 0600; lock its
 *      BSHM_WRITER_BYTE (taken: a cleaner has it, begin again with another); open it a second time for the pixels
 *      (gone: begin again); then set the group and the mode that were asked for, in this order.
 *   3. ftruncate to total_bytes; fallocate header, control and 3 + H slots. Check first how much is free (fstatvfs): an
 *      allocation that cannot succeed takes every page there is before it fails, and another process gets SIGBUS. If
 *      there is no room: remove the temporary, take the predecessor as in 5, punch what it has (PUNCHING), and begin
 *      again with 2, once, still holding its lock; if there is no predecessor, or it is your own, that is an error. Set
 *      backed_slots, state LIVE, notify 1.
 *   4. If you hold no predecessor: write the identity and rename without replacing (RENAME_NOREPLACE; where that does
 *      not exist, link and unlink; if the temporary is gone, begin again with 2). If the name was free, done:
 *      base_sequence is then the number of this writer's own last frame (a new writer: 0), `series` its own (a new
 *      writer: random).
 *   5. EEXIST: open the object that has the name (checks as in ATTACHING, but only the magic of the identity) and try
 *      to lock its BSHM_WRITER_BYTE. Whether that succeeds or not, the name must still lead to it (device and inode),
 *      else open again. Try every 2 ms; if it is still locked after 200 ms (20 ms for a writer that replaces its
 *      segment), its writer is alive. Skip this if the object is your own segment, which you replace. The dead writer's
 *      count is the highest of its base_sequence, `latest` >> 6 and (seq + 1) / 2 of every slot, ignoring values above
 *      BSHM_MAX_SEQUENCE. If it is above your own, go on from there: it becomes base_sequence, and `series` is kept. An
 *      object with a magic but no valid identity, or without memory behind its header, has no count. Write the identity
 *      and rename over the name. The new object is now visible, complete and locked.
 *   6. In the predecessor, if its identity is valid, and in your own segment that you replace: state RETIRED,
 *      W11, W12; only then unlock and close it.
 *
 *   A writer checks once a second whether the name still leads to its segment. If it does not, because the name was
 *   removed or a dead writer's segment has it, the writer replaces its segment as above. If a living writer, a foreign
 *   file or an object of an owner who is not trusted has it, the name is lost for good: state RETIRED, W11, W12,
 *   unlock, and never take the name again.
 *
 *   To close: state CLOSED, W11, W12; unlink if the name still leads to the object; unlock. A writer that is killed
 *   before it unlinks leaves a dead segment like any other; its successor marks it RETIRED. To clean up after a
 *   dead writer: lock as in 5 but without waiting, unlink, unlock. A temporary is removed only by its owner or root, if
 *   it was last written more than 10 s ago, and after its BSHM_WRITER_BYTE was locked.
 *
 *
 * ATTACHING AND MOVING ON
 *
 *   Attach: lstat, open for reading (a regular file, not a symbolic link; its owner is you, root or trusted), pread and
 *   validate the identity, open again for reading and writing (refused or gone: an observer), compare device and inode
 *   of both (if they differ, begin again), map, show presence (LOCKS).
 *
 *   `seen` is the number of the last frame read here. In an object with another `generation` it starts at 0, and
 *   numbers are above base_sequence. As long as `series` is the same, one count continues: between the frames `last`
 *   and n, of this object or an earlier one, n - last - 1 were missed. With another series n - 1 were.
 *
 *   When nothing is new, look at the name (lstat): every 100 ms while the state is LIVE, otherwise every 5 ms. If it
 *   leads to another object or to none, load `latest` once more: the last frame may have arrived since, and is read
 *   first. Then attach to the object that the name leads to. If it leads nowhere, stay, and look again. If the last
 *   frame cannot be read although `latest` does not change, it is corrupt: move on without it.
 *
 *   Look at the name just as often before taking a frame that this reader has already had, or a frame by its number or
 *   time: an ended segment keeps those forever. The exception is a look-up by a reader of every frame in turn: it looks
 *   up earlier frames in the object that its current frame came from. A time after all of them is not an exception.
 *
 *   Ask the kernel for the status, after moving on if no unseen frame is left:
 *
 *     state     writer's byte   name leads                 status
 *     LIVE      locked          anywhere                   LIVE
 *     LIVE      free            anywhere                   DEAD: it was killed; a successor may follow
 *     CLOSED    either          anywhere                   CLOSED
 *     RETIRED   either          nowhere                    CLOSED: the successor was closed, or died and was cleaned up
 *     RETIRED   either          to another object          LIVE if that one is valid and its byte locked, else DEAD
 *     no object was attached                               DETACHED
 *
 *
 * VALIDATION
 *
 *   The checksum catches accidents, not forgery: check every number as if there were no checksum. A failed check is
 *   BSHM_E_FORMAT.
 *
 *   Object     regular file, at least total_bytes long; memory behind each range before it is touched
 *              (MADV_POPULATE_READ fails with EFAULT where there is none).
 *   Identity   read by pread, into private memory, once. magic; abi_major == 2 (any abi_minor); byte_order;
 *              checksum; 3 <= slot_count <= 62; 1 <= token_count; slot_count == token_count + 2 + history;
 *              base_sequence <= BSHM_MAX_SEQUENCE; header_bytes == 65536, descriptor_offset == 4096,
 *              control_offset == 65536, pixels_offset == 131072; 1 <= slot_capacity <= slot_stride <= 2^41, slot_stride
 *              a multiple of 65536; total_bytes == pixels_offset + slot_count * slot_stride.
 *   `latest`   slot < slot_count.
 *   Frame      the private copy of the descriptor. ndim 2 (channels 1) or 3; width, height, channels >= 1; kind and
 *              item_size one of 'b' 1, 'i' and 'u' 1 2 4 8, 'f' 2 4 8, 'c' 8 16; channels * item_size <= 2^31;
 *              row = width * channels * item_size <= 2^40; row * height <= 2^40; row <= row_stride <= slot_capacity;
 *              row_stride <= slot_capacity / height (rounded down);
 *              (height - 1) * row_stride + row <= payload_bytes <= slot_capacity.
 *
 *   `sequence` of the descriptor is not trusted (R4), times and source_sequence are what the writer says, `fourcc` and
 *   `flags` are open sets. Statistics and the table of readers are for display: nothing depends on them. Texts are not
 *   always valid UTF-8.
 *
 *
 * PUNCHING
 *
 *   Only the owner of a *dead* writer's byte may return memory of slots to the system (fallocate FALLOC_FL_PUNCH_HOLE).
 *   First clear the tokens without an owner. Then, slot by slot: not `latest`'s slot; claim it (W2, W3; if that fails,
 *   it is pinned: leave it); an even seq 2n > 0 becomes 2n - 1, then fence(seq_cst) (W4, W5); punch. WRITING stays. So
 *   no pinned view loses memory, the newest frame stays readable, and an unpinned copy that reads zeros finds seq
 *   changed.
 *
 *
 * CAVEATS
 *
 *   - A process that may write the object can truncate it; touching it then raises SIGBUS. Modes are the defence.
 *   - A process that may read it can put read locks on its bytes: on the writer's, which blocks a take-over; on the
 *     tokens', which turns every lease into a copy; on the readers', which leaves readers without an entry, and so not
 *     shown. It can pass for observers, one for each lock, and a lock over their bytes hides others.
 *   - Do not use frames in a forked child. A reader works there: it attaches again. A view that was held at the fork
 *     keeps its pixels in the child until it is released there; a slot that was lent shows zeros there, and no reader
 *     sees what the child draws. A child made without the handlers of pthread_atfork (vfork, clone) must exec.
 *   - A file on a disk (not tmpfs) makes the writer wait for write-back.
 */
#ifndef BILLIARDS_SHM_H
#define BILLIARDS_SHM_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
#define BSHM_STATIC_ASSERT(holds, text) static_assert(holds, text)
extern "C" {
#else
#define BSHM_STATIC_ASSERT(holds, text) _Static_assert(holds, text)
#endif
#define BSHM_SIZE(type, bytes)       BSHM_STATIC_ASSERT(sizeof(type) == (bytes), #type " has " #bytes " bytes")
#define BSHM_OFFSET(type, field, at) BSHM_STATIC_ASSERT(offsetof(type, field) == (at), #type "." #field " is at " #at)

/* ---------------------------------------------------------------- layout */

#define BSHM_MAGIC           "BILLISHM" /* 8 bytes, no terminator */
#define BSHM_ABI_MAJOR       2
#define BSHM_ABI_MINOR       0
#define BSHM_BYTE_ORDER      0x0A0B0C0Du
#define BSHM_REGION_BYTES    65536u /* header region, control region, and the alignment of both and of slots */
#define BSHM_MIN_SLOTS       3u
#define BSHM_MAX_SLOTS       62u /* tokens are bits 0..59, a slot number fits 6 bits, bit 63 is WRITING */
#define BSHM_INITIAL_SLOTS   3u  /* backed by memory from the start, with `history` more */
#define BSHM_MAX_READERS     256u
#define BSHM_LATENCY_BUCKETS 40u
#define BSHM_READ_ATTEMPTS   8
#define BSHM_MAX_SEQUENCE    ((UINT64_C(1) << 57) - 1) /* `latest` has 58 bits for it */

/* Lock bytes: far beyond any object, at the same place in every version. */
#define BSHM_WRITER_BYTE           0x4000000000000000
#define BSHM_TOKEN_BYTE            0x4000000000001000
#define BSHM_READER_BYTE           0x4000000000002000

#define BSHM_PIN_WRITING           (UINT64_C(1) << 63)
#define BSHM_TOKEN_MASK(L)         ((UINT64_C(1) << (L)) - 1)
#define BSHM_LATEST(n, s)          ((uint64_t)(n) << 6 | (uint64_t)(s))
#define BSHM_LATEST_SEQUENCE(word) ((word) >> 6)
#define BSHM_LATEST_SLOT(word)     ((uint32_t)((word) & 63u))

/* A word that processes share. A struct, so that no plain read or write of one compiles by accident. */
typedef struct bshm_shared64 {
    uint64_t shared;
} bshm_shared64;
typedef struct bshm_shared32 {
    uint32_t shared;
} bshm_shared32;
BSHM_SIZE(bshm_shared64, 8);
BSHM_SIZE(bshm_shared32, 4);
BSHM_STATIC_ASSERT(BSHM_MAX_SLOTS - 2 < 63 && BSHM_MAX_SLOTS < 64, "tokens leave bit 63 alone, a slot fits 6 bits");

/* Written before the object has its name, then never changed. Readers copy it by pread, validate the copy, and do not
 * read it again. `magic`, `abi_major`, `abi_minor` keep their places in every version. */
typedef struct bshm_identity {
    uint8_t magic[8];
    uint16_t abi_major;
    uint16_t abi_minor;
    uint32_t header_bytes;
    uint32_t byte_order;
    uint32_t slot_count;
    uint8_t generation[16]; /* random: which object this is */
    uint64_t total_bytes;
    uint64_t slot_stride;   /* from slot to slot, a multiple of BSHM_REGION_BYTES */
    uint64_t slot_capacity; /* payload bytes a slot can hold */
    uint64_t control_offset;
    uint64_t pixels_offset;
    uint64_t base_sequence; /* the first frame here has a number above this one */
    int64_t created_wall_ns;
    int64_t created_ns;  /* CLOCK_MONOTONIC */
    uint32_t writer_pid; /* for messages only */
    uint32_t descriptor_offset;
    uint64_t series;      /* random; kept by take-over and replacement: while it is the same, one count continues */
    uint32_t token_count; /* L */
    uint32_t history;     /* H: the frames before the newest that are kept */
    uint64_t checksum;    /* FNV-1a, 64 bit (0xcbf29ce484222325, 0x100000001b3), of the bytes above */
} bshm_identity;
BSHM_SIZE(bshm_identity, 136);
BSHM_OFFSET(bshm_identity, magic, 0);
BSHM_OFFSET(bshm_identity, abi_major, 8);
BSHM_OFFSET(bshm_identity, abi_minor, 10);
BSHM_OFFSET(bshm_identity, header_bytes, 12);
BSHM_OFFSET(bshm_identity, byte_order, 16);
BSHM_OFFSET(bshm_identity, slot_count, 20);
BSHM_OFFSET(bshm_identity, generation, 24);
BSHM_OFFSET(bshm_identity, total_bytes, 40);
BSHM_OFFSET(bshm_identity, slot_stride, 48);
BSHM_OFFSET(bshm_identity, slot_capacity, 56);
BSHM_OFFSET(bshm_identity, control_offset, 64);
BSHM_OFFSET(bshm_identity, pixels_offset, 72);
BSHM_OFFSET(bshm_identity, base_sequence, 80);
BSHM_OFFSET(bshm_identity, created_wall_ns, 88);
BSHM_OFFSET(bshm_identity, created_ns, 96);
BSHM_OFFSET(bshm_identity, writer_pid, 104);
BSHM_OFFSET(bshm_identity, descriptor_offset, 108);
BSHM_OFFSET(bshm_identity, series, 112);
BSHM_OFFSET(bshm_identity, token_count, 120);
BSHM_OFFSET(bshm_identity, history, 124);
BSHM_OFFSET(bshm_identity, checksum, 128);

enum bshm_state { BSHM_STATE_LIVE = 1, BSHM_STATE_RETIRED = 2, BSHM_STATE_CLOSED = 3 };

/* What readers load: one cache line. The writer writes it; its successor writes `state` and `notify`. */
typedef struct bshm_publication {
    bshm_shared64 latest; /* n << 6 | slot; 0: no frame yet */
    bshm_shared32 notify; /* futex word */
    bshm_shared32 state;  /* enum bshm_state */
    uint8_t reserved[48];
} bshm_publication;
BSHM_SIZE(bshm_publication, 64);
BSHM_OFFSET(bshm_publication, latest, 0);
BSHM_OFFSET(bshm_publication, notify, 8);
BSHM_OFFSET(bshm_publication, state, 12);

enum bshm_source_state {
    BSHM_SOURCE_UNKNOWN = 0, /* the writer does not report its source */
    BSHM_SOURCE_OPENING = 1,
    BSHM_SOURCE_STREAMING = 2,
    BSHM_SOURCE_STALLED = 3,
    BSHM_SOURCE_RECONNECTING = 4,
    BSHM_SOURCE_ENDED = 5
};

/* Relaxed loads and stores; only the writer writes. The texts are a seqlock: store(text_seq, odd, relaxed),
 * fence(seq_cst), the words, store(text_seq, even, release); a reader loads text_seq (acquire) before them and, after
 * fence(acquire), once more, and reads again if it was odd or has changed.
 * `clock_offset_ns` is an int64_t in two's complement: how far the clock of the driver or sender is ahead of this
 * host's (CLOCK_MONOTONIC for a driver, CLOCK_REALTIME for a sender) when its least late frame arrives. An offset of 0
 * or -1 is written as 1, because 0 means unknown, and all ones in a report change nothing. It belongs to the newest
 * frame only if that frame's clock is DRIVER or SENDER; for any other clock, do not show it. Functions that take or
 * return statistics use this structure too, as a private copy: read its words as `copy.published.shared`.
 * billiards_shm/statistics.py is the table of what is counted here: names, help texts, and how they are shown. */
typedef struct bshm_statistics {
    bshm_shared64 published;
    bshm_shared64 dropped;
    bshm_shared64 leases_broken;
    bshm_shared64 backed_slots;
    bshm_shared64 heartbeat_ns;    /* CLOCK_MONOTONIC of the writer's last action */
    bshm_shared64 last_capture_ns; /* `publish_ns` of the last *captured* frame; 0: none. Placeholders do not count */
    bshm_shared64 captured;
    bshm_shared64 reconnects;
    bshm_shared64 stalls;
    bshm_shared64 loops;
    bshm_shared64 fps_millihertz; /* measured by the capture process over a window */
    bshm_shared64 source_state;   /* enum bshm_source_state */
    bshm_shared64 write_ns_total;
    bshm_shared64 text_seq;
    bshm_shared64 reason[16];      /* UTF-8, NUL-padded */
    bshm_shared64 backend[4];      /* UTF-8, NUL-padded */
    bshm_shared64 bytes_written;   /* payload bytes published */
    bshm_shared64 unreadable;      /* frames of the source that could not be decoded */
    bshm_shared64 lost;            /* frames that the camera's driver lost, estimated from the times of the others */
    bshm_shared64 clock_offset_ns; /* signed, as above; 0: unknown */
    bshm_shared64 link_bytes;      /* of a copy of another host's segment: bytes received */
    bshm_shared64 link_missed;     /* frames of the other host that never arrived, where every one is wanted */
    bshm_shared64 link_age_us;     /* median age of the last frames when they were published here */
    bshm_shared64 link_trip_us;    /* shortest recent round trip */
    bshm_shared64 link_error_us;   /* how far off times converted to this host's clock may be */
    bshm_shared64 reserved[1];
    bshm_shared64
        write_ns_log2[BSHM_LATENCY_BUCKETS]; /* bucket i: writes that took less than 2^i ns, not less than 2^(i-1) */
} bshm_statistics;
BSHM_OFFSET(bshm_statistics, published, 0);
BSHM_OFFSET(bshm_statistics, dropped, 8);
BSHM_OFFSET(bshm_statistics, leases_broken, 16);
BSHM_OFFSET(bshm_statistics, backed_slots, 24);
BSHM_OFFSET(bshm_statistics, heartbeat_ns, 32);
BSHM_OFFSET(bshm_statistics, last_capture_ns, 40);
BSHM_OFFSET(bshm_statistics, captured, 48);
BSHM_OFFSET(bshm_statistics, reconnects, 56);
BSHM_OFFSET(bshm_statistics, stalls, 64);
BSHM_OFFSET(bshm_statistics, loops, 72);
BSHM_OFFSET(bshm_statistics, fps_millihertz, 80);
BSHM_OFFSET(bshm_statistics, source_state, 88);
BSHM_OFFSET(bshm_statistics, write_ns_total, 96);
BSHM_OFFSET(bshm_statistics, text_seq, 104);
BSHM_OFFSET(bshm_statistics, reason, 112);
BSHM_OFFSET(bshm_statistics, backend, 240);
BSHM_OFFSET(bshm_statistics, bytes_written, 272);
BSHM_OFFSET(bshm_statistics, unreadable, 280);
BSHM_OFFSET(bshm_statistics, lost, 288);
BSHM_OFFSET(bshm_statistics, clock_offset_ns, 296);
BSHM_OFFSET(bshm_statistics, link_bytes, 304);
BSHM_OFFSET(bshm_statistics, link_missed, 312);
BSHM_OFFSET(bshm_statistics, link_age_us, 320);
BSHM_OFFSET(bshm_statistics, link_trip_us, 328);
BSHM_OFFSET(bshm_statistics, link_error_us, 336);
BSHM_OFFSET(bshm_statistics, write_ns_log2, 352);

#define BSHM_STATISTICS_WORDS 84u
BSHM_SIZE(bshm_statistics, 8 * BSHM_STATISTICS_WORDS);

/* What capture_ns was taken from. */
enum bshm_clock {
    BSHM_CLOCK_ARRIVAL = 0, /* when the frame arrived at the process that captures, or was written */
    BSHM_CLOCK_DRIVER = 1,  /* the camera driver's time of the buffer */
    BSHM_CLOCK_SENDER = 2,  /* the clock of the camera or server that sent it */
    BSHM_CLOCK_FILE = 3,    /* the times in a recording */
    BSHM_CLOCK_REMOTE = 4   /* another host's segment, converted to this host's clock */
};

enum bshm_frame_flags {
    BSHM_FRAME_PLACEHOLDER = 1,
    BSHM_FRAME_SOURCE_SEQUENCE = 2, /* `source_sequence` is set */
    BSHM_FRAME_CLOCK = 0x700 /* enum bshm_clock, from bit BSHM_CLOCK_SHIFT on; treat an unknown value as arrival */
};
#define BSHM_CLOCK_SHIFT 8

/* What a descriptor says about its frame. Geometry is per frame: any that fits the capacity may follow. */
typedef struct bshm_frame_info {
    uint64_t sequence;
    int64_t capture_ns; /* CLOCK_MONOTONIC of this host; BSHM_FRAME_CLOCK in the flags says what it was taken from */
    int64_t publish_ns; /* CLOCK_MONOTONIC */
    int64_t wall_ns;    /* CLOCK_REALTIME at publication, at the origin if there is one */
    double position_ms; /* in the source; NaN: unknown */
    uint64_t payload_bytes;
    uint64_t row_stride; /* bytes from row to row */
    uint32_t width;
    uint32_t height;
    uint32_t channels;        /* 1 when ndim is 2 */
    uint32_t item_size;       /* bytes */
    uint32_t ndim;            /* 2: (height, width), 3: (height, width, channels) */
    uint32_t kind;            /* 'b' bool, 'i' signed, 'u' unsigned, 'f' floating, 'c' complex */
    uint32_t fourcc;          /* pixel format: FRAMES */
    uint32_t flags;           /* enum bshm_frame_flags */
    uint64_t source_sequence; /* the number that the frame had at its origin; valid only with its flag */
    uint64_t reserved[3];
} bshm_frame_info;
BSHM_SIZE(bshm_frame_info, 120);
BSHM_OFFSET(bshm_frame_info, sequence, 0);
BSHM_OFFSET(bshm_frame_info, capture_ns, 8);
BSHM_OFFSET(bshm_frame_info, publish_ns, 16);
BSHM_OFFSET(bshm_frame_info, wall_ns, 24);
BSHM_OFFSET(bshm_frame_info, position_ms, 32);
BSHM_OFFSET(bshm_frame_info, payload_bytes, 40);
BSHM_OFFSET(bshm_frame_info, row_stride, 48);
BSHM_OFFSET(bshm_frame_info, width, 56);
BSHM_OFFSET(bshm_frame_info, height, 60);
BSHM_OFFSET(bshm_frame_info, channels, 64);
BSHM_OFFSET(bshm_frame_info, item_size, 68);
BSHM_OFFSET(bshm_frame_info, ndim, 72);
BSHM_OFFSET(bshm_frame_info, kind, 76);
BSHM_OFFSET(bshm_frame_info, fourcc, 80);
BSHM_OFFSET(bshm_frame_info, flags, 84);
BSHM_OFFSET(bshm_frame_info, source_sequence, 88);

#define BSHM_INFO_WORDS 15u

typedef struct bshm_descriptor {
    bshm_shared64 seq;                   /* 2n: frame n complete; 2n-1: being written */
    bshm_shared64 info[BSHM_INFO_WORDS]; /* a bshm_frame_info, word by word */
} bshm_descriptor;
BSHM_SIZE(bshm_descriptor, 128);
BSHM_OFFSET(bshm_descriptor, seq, 0);
BSHM_OFFSET(bshm_descriptor, info, 8);

#define BSHM_PUBLICATION_OFFSET 256u
#define BSHM_STATISTICS_OFFSET  512u
#define BSHM_DESCRIPTOR_OFFSET  4096u

typedef struct bshm_header {
    bshm_identity identity;
    uint8_t padding0[BSHM_PUBLICATION_OFFSET - sizeof(bshm_identity)];
    bshm_publication publication;
    uint8_t padding1[BSHM_STATISTICS_OFFSET - BSHM_PUBLICATION_OFFSET - sizeof(bshm_publication)];
    bshm_statistics statistics;
    uint8_t padding2[BSHM_DESCRIPTOR_OFFSET - BSHM_STATISTICS_OFFSET - sizeof(bshm_statistics)];
    bshm_descriptor descriptors[BSHM_MAX_SLOTS];
} bshm_header;
BSHM_OFFSET(bshm_header, publication, BSHM_PUBLICATION_OFFSET);
BSHM_OFFSET(bshm_header, statistics, BSHM_STATISTICS_OFFSET);
BSHM_OFFSET(bshm_header, descriptors, BSHM_DESCRIPTOR_OFFSET);
BSHM_STATIC_ASSERT(sizeof(bshm_header) <= BSHM_REGION_BYTES, "the header fits its region");

/* Each pin word has 128 bytes: two cache lines on x86 (its prefetcher fetches pairs), one on Apple's cores. */
typedef struct bshm_pin {
    bshm_shared64 word;
    uint8_t reserved[120];
} bshm_pin;
BSHM_SIZE(bshm_pin, 128);
BSHM_OFFSET(bshm_pin, word, 0);

enum bshm_reader_kind { BSHM_READER_LEASE = 1, BSHM_READER_OBSERVER = 2 };

/* For display only: no decision depends on it. Its reader writes it, by relaxed stores. */
typedef struct bshm_reader_entry {
    bshm_shared64 pid;  /* 0 after it has detached; after a kill it stays: ask for the lock */
    bshm_shared64 kind; /* enum bshm_reader_kind */
    bshm_shared64 attached_wall_ns;
    bshm_shared64 frames;
    bshm_shared64 skipped;
    bshm_shared64 copies;
    bshm_shared64 last_sequence;
    bshm_shared64 tokens; /* bit t: it owns token t */
    bshm_shared64 process_name[4];
    uint8_t reserved[32];
} bshm_reader_entry;
BSHM_SIZE(bshm_reader_entry, 128);
BSHM_OFFSET(bshm_reader_entry, pid, 0);
BSHM_OFFSET(bshm_reader_entry, kind, 8);
BSHM_OFFSET(bshm_reader_entry, attached_wall_ns, 16);
BSHM_OFFSET(bshm_reader_entry, frames, 24);
BSHM_OFFSET(bshm_reader_entry, skipped, 32);
BSHM_OFFSET(bshm_reader_entry, copies, 40);
BSHM_OFFSET(bshm_reader_entry, last_sequence, 48);
BSHM_OFFSET(bshm_reader_entry, tokens, 56);
BSHM_OFFSET(bshm_reader_entry, process_name, 64);

#define BSHM_READER_TABLE_OFFSET 16384u

typedef struct bshm_control {
    bshm_pin pins[BSHM_MAX_SLOTS];
    uint8_t padding[BSHM_READER_TABLE_OFFSET - BSHM_MAX_SLOTS * sizeof(bshm_pin)];
    bshm_reader_entry readers[BSHM_MAX_READERS];
} bshm_control;
BSHM_OFFSET(bshm_control, readers, BSHM_READER_TABLE_OFFSET);
BSHM_STATIC_ASSERT(sizeof(bshm_control) <= BSHM_REGION_BYTES, "the control region fits its region");

/* ---------------------------------------------------------------- results and errors */

/* What a function returns. If it succeeds and has more to report than BSHM_OK, it returns one of the next five. */
enum bshm_code {
    BSHM_OK = 0,
    BSHM_NOTHING = 0,       /* nothing new, nothing there, nothing to remove */
    BSHM_FOUND = 1,         /* bshm_reader_acquire: *frame holds a frame */
    BSHM_ATTACHED = 1,      /* bshm_reader_source: *view is filled */
    BSHM_DROPPED = 1,       /* bshm_writer_loan, bshm_writer_write: no memory for another slot, the frame is dropped */
    BSHM_REMOVED = 1,       /* bshm_remove_stale, bshm_remove_stale_temporary */
    BSHM_E_NAME = -1,       /* not a name, or a path on a file system whose locks do not die with their process */
    BSHM_E_NOT_FOUND = -2,  /* no such segment; for a new one: no such directory */
    BSHM_E_FORMAT = -3,     /* a file that is not a segment, another ABI, or a corrupt segment (VALIDATION) */
    BSHM_E_EXISTS = -4,     /* the name belongs to a living writer */
    BSHM_E_FULL = -5,       /* no memory, or no inode, for a segment or a larger one */
    BSHM_E_PERMISSION = -6, /* the system refused, or the owner is not trusted */
    BSHM_E_SHAPE = -7,      /* not the geometry of a frame, or too large for the buffer, the loan, or 1 TiB */
    BSHM_E_LOAN = -8,       /* a slot is already lent, or this one is no longer lent */
    BSHM_E_CLOSED = -9,     /* the writer or reader is closed; or the writer belongs to the parent of a forked child */
    BSHM_E_ARGUMENT = -10,  /* `slots`, `history`, or the number of trusted owners, is out of range */
    BSHM_E_MEMORY = -11,    /* malloc or mmap failed */
    BSHM_E_SYSTEM = -12,    /* another system call failed: bshm_error.system_errno */
    BSHM_E_TORN = -13       /* a newer frame overwrote it during the copy: bshm_reader_give_back, then acquire again */
};
#define BSHM_CODE_COUNT 14

/* Filled by every function that fails: what was found, what was expected, what to do. Every `error` may be null. */
typedef struct bshm_error {
    int32_t code;
    int32_t system_errno; /* 0 when no system call was to blame */
    char message[488];
} bshm_error;

const char *bshm_code_name(int code);

/* ---------------------------------------------------------------- common */

/* Owners to trust besides you and root, at most 16: objects of other users are BSHM_E_PERMISSION. */
typedef struct bshm_owners {
    const uint32_t *uids;
    size_t count;
} bshm_owners;

int64_t bshm_now_ns(void); /* CLOCK_MONOTONIC */

/* Writes the path of the object that `name` leads to. BSHM_E_NAME. */
int bshm_object_path(const char *name, char *path, size_t path_bytes, bshm_error *error);
/* The directory for names without a slash. */
const char *bshm_object_directory(void);

/* ---------------------------------------------------------------- writer */

/* Functions of one writer may be called from any thread; they wait for one another. A forked child cannot use its
 * parent's writer: BSHM_E_CLOSED. */
typedef struct bshm_writer bshm_writer;

typedef struct bshm_writer_options {
    uint64_t slot_capacity; /* bytes of the largest frame, 1 to 2^40; a larger frame replaces the segment */
    uint32_t slots;         /* L + 2: BSHM_MIN_SLOTS to BSHM_MAX_SLOTS, with `history` */
    uint32_t history;       /* H: how many frames before the newest are kept */
    uint32_t mode;          /* of the object, as chmod takes it */
    int32_t set_group;      /* give the object to `group`; false: it gets the group of any new file */
    uint32_t group;         /* as chown takes it */
    bshm_owners trusted;    /* whose dead segment may be taken over */
} bshm_writer_options;

typedef struct bshm_writer_counters {
    uint64_t sequence;
    uint64_t replacements;
    uint64_t backed_bytes;
    uint64_t total_bytes;
    uint8_t generation[16];
    bshm_statistics statistics; /* what the writer counts: summed over all its generations */
} bshm_writer_counters;

/* What the process that feeds the writer reports about its source: words of the statistics that the writer does not
 * count itself, and two texts. Begin with bshm_source_report_init: a word of all ones, or a null pointer, leaves a value
 * unchanged. */
typedef struct bshm_source_report {
    bshm_statistics statistics;
    const char *reason;  /* UTF-8; 128 bytes are kept */
    const char *backend; /* UTF-8; 32 bytes are kept */
} bshm_source_report;

/* A slot lent for writing. The memory at `pixels` stays mapped until bshm_loan_release, even if the writer is closed
 * first. Do not write there after publish or cancel: readers may be looking at it. */
typedef struct bshm_segment bshm_segment;
typedef struct bshm_loan {
    bshm_frame_info info; /* may be changed until publish, within the payload bytes lent */
    void *pixels;
    bshm_segment *segment;
    int64_t claim_ns; /* how long the loan itself took */
    uint32_t slot;
    uint32_t open; /* neither published nor cancelled yet */
} bshm_loan;

/* CREATION AND TAKE-OVER. BSHM_E_NAME, _ARGUMENT, _SHAPE (slot_capacity), _EXISTS, _FORMAT (the name belongs to a file
 * that is not a segment), _PERMISSION, _NOT_FOUND (no directory), _FULL, _MEMORY, _SYSTEM. Nothing is left behind. */
int bshm_writer_create(bshm_writer **writer, const char *name, const bshm_writer_options *options, bshm_error *error);

/* Lends a slot for a frame of the geometry, kind, fourcc, flags, capture_ns, wall_ns (0: that of publication),
 * position_ms and source_sequence of `info`; computes its row_stride and payload_bytes. A frame above slot_capacity
 * replaces the segment. So does a name that was removed, or that leads to a dead writer's segment; it is checked once a
 * second, and an error in that check costs no frame.
 * BSHM_DROPPED: `error` says how much memory was missing; try the next frame.
 * BSHM_E_CLOSED, _LOAN (one at a time), _SHAPE; and, for a larger frame, all errors of bshm_writer_create.
 *
 * BSHM_E_EXISTS, _FORMAT, _PERMISSION when another process has the name: the writer has lost it for good, its segment
 * is RETIRED, and every call fails this way until it is closed. */
int bshm_writer_loan(bshm_writer *writer, const bshm_frame_info *info, bshm_loan *loan, bshm_error *error);
/* BSHM_E_CLOSED, _LOAN, _SHAPE (more payload than was lent): the loan stays open after _SHAPE. */
int bshm_writer_publish(bshm_writer *writer, bshm_loan *loan, uint64_t *sequence, bshm_error *error);
/* Publishes no frame and uses up no number. Does nothing to a loan that is not open. */
void bshm_writer_cancel(bshm_writer *writer, bshm_loan *loan);
void bshm_loan_release(bshm_loan *loan);

/* Loan, copy of `height` rows that begin `source_stride` bytes apart (may be negative), publish. Returns as
 * bshm_writer_loan does. */
int bshm_writer_write(bshm_writer *writer, const bshm_frame_info *info, const void *source, ptrdiff_t source_stride,
                      uint64_t *sequence, bshm_error *error);

/* A report that leaves every value unchanged. */
void bshm_source_report_init(bshm_source_report *report);
/* BSHM_E_CLOSED; and, for a writer that lost its name, as bshm_writer_loan. */
int bshm_writer_report(bshm_writer *writer, const bshm_source_report *report, bshm_error *error);
/* Works for a closed writer, too. */
void bshm_writer_get_counters(bshm_writer *writer, bshm_writer_counters *counters);

/* 1: the kernel's locks show now that a reader, or an observer, is attached to the writer's segment. 0: none is, or the
 * writer is closed. */
int bshm_writer_has_readers(bshm_writer *writer);

/* CLOSED, wake, unlink. An open loan is cancelled. A second call does nothing. */
void bshm_writer_close(bshm_writer *writer);
/* Closes and frees. No other thread may be inside a call. */
void bshm_writer_free(bshm_writer *writer);

/* ---------------------------------------------------------------- reader */

/* The statistics of a segment, copied out, with their texts as C has them. */
typedef struct bshm_source_view {
    bshm_statistics statistics;
    char reason[129];
    char backend[33];
} bshm_source_view;

/* Functions of one reader may be called from any thread; they wait for one another, except bshm_reader_wait, which
 * lets others in. A forked child may use its parent's reader: it attaches again. */
typedef struct bshm_reader bshm_reader;
typedef struct bshm_attachment bshm_attachment;

enum bshm_status { BSHM_STATUS_DETACHED = 0, BSHM_STATUS_LIVE = 1, BSHM_STATUS_CLOSED = 2, BSHM_STATUS_DEAD = 3 };

typedef struct bshm_reader_options {
    uint32_t max_leases; /* frames that may be held; further ones have to be copied */
    bshm_owners trusted; /* whose segments are read */
} bshm_reader_options;

/* A frame held: read it in place until bshm_frame_release. If `to_copy` is set, it is pinned for the length of a copy
 * only, or not at all (`pixels` is null): copy it out with bshm_frame_copy. A frame keeps its mapping, so it outlives
 * reader, writer and name. */
typedef struct bshm_frame {
    bshm_frame_info info;
    uint8_t generation[16];
    uint64_t skipped; /* frames between this reader's last one and this */
    const void *pixels;
    bshm_attachment *attachment;
    uint64_t seq;
    uint32_t slot;
    int32_t lease; /* which of the reader's leases; -1: none */
    uint32_t pinned;
    uint32_t to_copy; /* do not hold it: copy it and release it */
    uint32_t is_new;  /* this reader had not seen it before */
    uint32_t reserved;
} bshm_frame;

enum bshm_acquire_flags {
    BSHM_ACQUIRE_SEEN = 1, /* bshm_reader_acquire: the newest frame even if this reader had it */
    BSHM_ACQUIRE_COPY = 2, /* it will be copied: keep no token for it */
    BSHM_ACQUIRE_STAY = 4  /* do not move on from a segment that was closed cleanly */
};

typedef struct bshm_reader_counters {
    uint64_t frames;
    uint64_t skipped;
    uint64_t copies;
    uint64_t retries;
    uint64_t ends; /* segments that were closed cleanly, and that it has left */
} bshm_reader_counters;

/* Touches no segment. BSHM_E_NAME, _ARGUMENT, _MEMORY. */
int bshm_reader_create(bshm_reader **reader, const char *name, const bshm_reader_options *options, bshm_error *error);
/* One try; BSHM_OK if already attached. BSHM_E_CLOSED, _NOT_FOUND, _FORMAT, _PERMISSION, _NAME, _MEMORY, _SYSTEM. */
int bshm_reader_attach(bshm_reader *reader, bshm_error *error);
/* BSHM_FOUND: *frame is the newest frame, which now counts as seen. BSHM_NOTHING: nothing new, or no segment. Attaches,
 * and moves on to a successor, automatically. Errors of bshm_reader_attach except _NOT_FOUND; _FORMAT also for a
 * corrupt descriptor. An error leaves the reader unchanged: call again. */
int bshm_reader_acquire(bshm_reader *reader, uint32_t flags, bshm_frame *frame, bshm_error *error);
/* The same for the next frame after the last one that this reader had, as long as it is in the window; if not, the
 * first one that is. The very first is the newest. Frames of a segment come before those of its
 * successor. */
int bshm_reader_acquire_next(bshm_reader *reader, uint32_t flags, bshm_frame *frame, bshm_error *error);
/* The same for frame `number` of the window, and for the one captured nearest to `capture_ns` (the earlier of two).
 * BSHM_NOTHING: it is outside the window, or all frames there were captured later. The frame does not count as seen. */
int bshm_reader_acquire_number(bshm_reader *reader, uint64_t number, uint32_t flags, bshm_frame *frame,
                               bshm_error *error);
int bshm_reader_acquire_nearest(bshm_reader *reader, int64_t capture_ns, uint32_t flags, bshm_frame *frame,
                                bshm_error *error);
/* H of the segment it is attached to; -1: not attached. */
int bshm_reader_history(bshm_reader *reader);
/* The frame could not be used after all (BSHM_E_TORN): it counts as skipped in the next one. */
void bshm_reader_give_back(bshm_reader *reader, const bshm_frame *frame);
/* Sleeps until there may be something new, at most timeout_ns and never above 100 ms. A signal ends it. First maps the
 * slots that have memory, so that their first frames arrive as fast as later ones. */
void bshm_reader_wait(bshm_reader *reader, int64_t timeout_ns);
/* Maps them without sleeping. Returns where frames in `slot` will lie, for an array that is made before its frame
 * arrives; null: it has no memory yet, or `attachment` is not what the reader reads now. */
const void *bshm_reader_map_ahead(bshm_reader *reader, const bshm_attachment *attachment, uint32_t slot);
/* enum bshm_status, as the kernel reports it now. */
int bshm_reader_status(bshm_reader *reader);
/* 1: the last segment under the name was closed cleanly, and everything that can still be read was seen. */
int bshm_reader_ended(bshm_reader *reader);
/* BSHM_ATTACHED and *view filled, or BSHM_NOTHING when detached. */
int bshm_reader_source(bshm_reader *reader, bshm_source_view *view);
void bshm_reader_get_counters(bshm_reader *reader, bshm_reader_counters *counters);
/* Detaches. Frames that are held stay valid. A second call does nothing. */
void bshm_reader_close(bshm_reader *reader);
/* Closes and frees. No other thread may be inside a call. */
void bshm_reader_free(bshm_reader *reader);

/* R5: 1 as long as the pixels are those of `frame`. */
int bshm_frame_intact(const bshm_frame *frame);
/* Copies rows without padding to `destination` (info.height * width * channels * item_size bytes). BSHM_E_SHAPE: too
 * few bytes there. BSHM_E_TORN: a newer frame overwrote it, which cannot happen to a pinned one. */
int bshm_frame_copy(const bshm_frame *frame, void *destination, uint64_t destination_bytes);
/* R6. Also in a forked child, where the pin stays its parent's. */
void bshm_frame_release(bshm_frame *frame);

/* Keeps the addresses of a frame's `attachment` from being used for anything else, for an array that is made before its
 * frame arrives. It holds neither pin nor memory: you may read any frame there, or part of one, or zeros; and where
 * a take-over has punched it and no memory is free, reading raises SIGBUS. Call it while you have a frame of that
 * attachment, or already hold its addresses. Returns `attachment`, which may be null. */
bshm_attachment *bshm_addresses_hold(bshm_attachment *attachment);
void bshm_addresses_release(bshm_attachment *attachment);

/* ---------------------------------------------------------------- inspection and cleaning */

typedef struct bshm_reader_view {
    uint32_t pid; /* 0: an observer, which has no entry */
    uint32_t kind;
    int64_t attached_wall_ns;
    uint64_t frames;
    uint64_t skipped;
    uint64_t copies;
    uint64_t last_sequence;
    uint32_t leases; /* frames it holds pinned now */
    char process_name[33];
} bshm_reader_view;

typedef struct bshm_inspection {
    bshm_identity identity;
    uint64_t allocated_bytes;
    uint32_t owner_uid;
    uint32_t group_gid; /* UINT32_MAX where files have no group */
    uint32_t mode;
    int32_t status; /* enum bshm_status */
    uint64_t latest_sequence;
    int32_t has_frame; /* `frame` is valid */
    bshm_frame_info frame;
    bshm_source_view source;
    uint32_t reader_count;
    bshm_reader_view readers[BSHM_MAX_READERS];
} bshm_inspection;

/* Reads the object without mapping it. BSHM_E_NAME, _ARGUMENT, _NOT_FOUND, _FORMAT, _PERMISSION, _MEMORY, _SYSTEM. */
int bshm_inspect(const char *name, const bshm_owners *trusted, bshm_inspection *inspection, bshm_error *error);
/* BSHM_REMOVED, or BSHM_NOTHING (no such name, or its writer lives). Errors of bshm_inspect except _NOT_FOUND. */
int bshm_remove_stale(const char *name, const bshm_owners *trusted, bshm_error *error);
/* The same for a temporary that a creator left behind, at `path`. BSHM_E_NAME: not the name of a temporary. */
int bshm_remove_stale_temporary(const char *path, bshm_error *error);

#ifdef __cplusplus
}
#endif

#endif
