/* The per-frame path in C: one call a frame instead of some sixty bytecodes and a dozen calls.
 *
 * Each type here has a twin of equal behaviour in tensorpool/client/slots.py, which is what runs
 * where this module was not built; tests/unit/client/test_slots.py holds both to the same cases.
 */
#ifndef TENSORPOOL_HOT_H
#define TENSORPOOL_HOT_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#define NPY_NO_DEPRECATED_API NPY_2_0_API_VERSION
#define NPY_TARGET_VERSION NPY_2_0_API_VERSION
#define PY_ARRAY_UNIQUE_SYMBOL tensorpool_hot_numpy
#ifndef HOT_MODULE
#define NO_IMPORT_ARRAY
#endif
#include <numpy/arrayobject.h>

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "regions and messages are little-endian: use the pure Python path on this machine"
#endif

enum {
    SUPERBLOCK_BYTES = 64,
    HEADER_SLOT_BYTES = 256,
    TENSOR_HEADER_OFFSET = 64,
    TENSOR_HEADER_BYTES = 192,
    MAX_DIMS = 8,
    MAX_POOLS = 64,
    MESSAGE_HEADER_BYTES = 8,
};

/* A header slot (Wire §8.2). Explicit padding: C would put 4 bytes before a u64 at offset 18. */
typedef struct {
    _Atomic uint64_t commit;
    uint8_t values_len[4];
    uint8_t payload_slot[4];
    uint8_t pool_id[2];
    uint8_t payload_offset[4];
    uint8_t timestamp_ns[8];
    uint8_t meta_version[4];
    uint8_t pad[26];
    uint8_t header_length[4];
    uint8_t tensor_header[TENSOR_HEADER_BYTES];
} HeaderSlot;
_Static_assert(sizeof(HeaderSlot) == HEADER_SLOT_BYTES, "Wire §8.1: 256 bytes");
_Static_assert(offsetof(HeaderSlot, tensor_header) == TENSOR_HEADER_OFFSET, "Wire §8.2");

/* FrameDescriptor with its message header (Wire §10.2.1, §16). */
typedef struct {
    uint8_t prefix[MESSAGE_HEADER_BYTES];
    uint8_t stream_id[4];
    uint8_t epoch[8];
    uint8_t seq[8];
    uint8_t published_ns[8];
    uint8_t meta_version[4];
    uint8_t trace_id[8];
} DescriptorMessage;
_Static_assert(sizeof(DescriptorMessage) == 48, "Wire §16: FrameDescriptor");

#define PUT(field, value) memcpy((field), &(value), sizeof(field))
#define GET(field, variable) memcpy(&(variable), (field), sizeof(field))

/* The commit word (Wire §8.3): seq << 1 while the slot is written, that | 1 when it is whole. */
static inline uint64_t in_progress_word(uint64_t seq) { return seq << 1; }
static inline uint64_t committed_word(uint64_t seq) { return seq << 1 | 1; }

/* Before the first byte of a frame is written: no later store may become visible earlier. */
static inline void store_in_progress(_Atomic uint64_t *word, uint64_t seq)
{
    atomic_store_explicit(word, in_progress_word(seq), memory_order_relaxed);
    atomic_thread_fence(memory_order_release);
}

static inline void store_committed(_Atomic uint64_t *word, uint64_t seq)
{
    atomic_store_explicit(word, committed_word(seq), memory_order_release);
}

/* After the last byte was read: no earlier load may be satisfied later. */
static inline int still_holds(_Atomic uint64_t *word, uint64_t expected)
{
    atomic_thread_fence(memory_order_acquire);
    return atomic_load_explicit(word, memory_order_relaxed) == expected;
}

/* A mapped payload pool. `memory` is a memoryview, the base of the arrays made in it: it keeps
 * the mapping alive, and it is read-only where the mapping is. */
typedef struct {
    uint16_t pool_id;
    uint64_t stride;
    Py_buffer buffer;
    PyObject *memory;
} Pool;

/* The mapped regions of one epoch. */
typedef struct {
    uint64_t mask;
    Py_buffer ring;
    int pool_count;
    Pool pools[MAX_POOLS];
} Regions;

int regions_open(Regions *regions, PyObject *ring, PyObject *pools, unsigned long long nslots,
                 int writable);
void regions_close(Regions *regions);

static inline HeaderSlot *regions_slot(const Regions *regions, uint64_t seq)
{
    return (HeaderSlot *)((char *)regions->ring.buf + SUPERBLOCK_BYTES +
                          (seq & regions->mask) * HEADER_SLOT_BYTES);
}

static inline char *pool_slot(const Regions *regions, const Pool *pool, uint64_t seq)
{
    return (char *)pool->buffer.buf + SUPERBLOCK_BYTES + (seq & regions->mask) * pool->stride;
}

/* A C-level frame: `tensorpool.client.frame.Frame` derives from it and adds what is not hot. */
typedef struct {
    PyObject_HEAD
    PyObject *array;
    PyObject *layout;
    PyObject *consumer;
    PyObject *reader; /* keeps the header ring mapped, for `valid` */
    _Atomic uint64_t *word;
    uint64_t commit;
    uint64_t seq;
    uint64_t epoch;
    uint64_t timestamp_ns;
    uint64_t published_ns;
    uint64_t trace_id;
    uint32_t meta_version;
} FrameState;

extern PyType_Spec FrameState_spec;
extern PyType_Spec SlotWriter_spec;
extern PyType_Spec SlotReader_spec;
extern PyType_Spec DescriptorSink_spec;

#endif
