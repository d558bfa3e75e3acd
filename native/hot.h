/* The per-frame path in C: one call a frame instead of some sixty bytecodes and a dozen calls.
 *
 * Where this module was not built, twins in tensorpool/client/slots.py and states.py run instead.
 * Readers, writers and sinks behave like theirs (tests/unit/client/test_slots.py holds both to the
 * same cases). The states of producers, consumers and claims know a shorter way here: while nothing
 * has changed since they were armed, they do what Producer and Consumer do in Python after any change
 * (tests/unit/client/test_short_way.py); their twins always leave it to those.
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

/* An integer of Python's, or what can stand for one, as numpy's can; 0, or -1 with an error. */
static inline int u64_of(PyObject *value, uint64_t *number)
{
    PyObject *index = PyNumber_Index(value);
    if (index == NULL) {
        return -1;
    }
    *number = PyLong_AsUnsignedLongLong(index);
    Py_DECREF(index);
    return *number == UINT64_MAX && PyErr_Occurred() ? -1 : 0;
}

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
    int streamed; /* see copy.c */
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

enum { STREAMED_BYTES = 256 * 1024 }; /* less stays in a core's own cache whatever the pool is */

void copy_payload(char *target, const void *source, size_t nbytes, int streamed);

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

/* Who is in the middle of using a producer or a consumer; the interpreter lock guards it. */
typedef struct {
    PyObject_HEAD
    char is_in_use;
    unsigned long thread;
    unsigned long long uses;
} UserGate;

static inline int gate_enter(UserGate *gate)
{
    if (gate->is_in_use) {
        return 0;
    }
    gate->is_in_use = 1;
    gate->thread = PyThread_get_thread_ident();
    gate->uses++;
    return 1;
}

static inline void gate_leave(UserGate *gate) { gate->is_in_use = 0; }

/* What a frame's descriptor tells a consumer of the stream. */
typedef struct {
    uint64_t epoch, seq, published_ns, trace_id;
    uint32_t meta_version;
} Descriptor;

enum { BATCH = 64 };

/* What a subscription calls with each fragment. While `is_direct` descriptors stay as they are in
 * `batch`, for a consumer that takes them in C; `waiting`, the queue of those that Python takes,
 * is empty then, and gets what is left of the batch as soon as anybody looks at it. */
typedef struct {
    PyObject_HEAD
    vectorcallfunc call;
    PyObject *waiting; /* a deque */
    PyObject *append;
    unsigned int stream_id;
    uint8_t prefix[MESSAGE_HEADER_BYTES];
    char is_direct;
    int first, count;
    Descriptor batch[BATCH];
} DescriptorSink;

/* What has to be as it was when a producer or consumer was armed: else Python looks closer. */
typedef struct {
    PyObject *lease, *keeper;
    long long version, connection;
    UserGate *gate;
    PyObject *mappings; /* a tuple of mmaps */
} Guard;

int guard_set(Guard *guard, PyObject *lease, PyObject *version, PyObject *keeper,
              PyObject *connection, PyObject *gate, PyObject *mappings);
void guard_clear(Guard *guard);
int guard_visit(Guard *guard, visitproc visit, void *arg);
int guard_holds(const Guard *guard);

/* When it was last seen that every region's file is whole; asking is a system call for each, so it
 * is done in moments when nobody waits, and before a frame only if that is long ago. */
typedef struct {
    uint64_t seen_ns;
} Wholeness;

enum { IDLE_LOOK_NS = 1000000, FRAME_LOOK_NS = 5000000 };

int still_whole(Wholeness *wholeness, PyObject *mappings, uint64_t look_ns);

PyObject *reader_frame(PyObject *reader, uint64_t seq, uint64_t epoch, uint64_t published_ns,
                       uint64_t trace_id);
int64_t reader_newest_overtaken(PyObject *reader, uint64_t seq);

/* What becomes of a frame that is published in one go. */
typedef enum { FAILED = -1, NOT_THIS_WAY, COMMITTED, TOLD } Published;

Published writer_send(PyObject *writer, PyObject *array, uint64_t seq, PyObject *timestamp_ns,
                      uint64_t meta_version, uint64_t trace_id, PyObject *offer);
int writer_tell(PyObject *writer, PyObject *offer, uint64_t seq, uint32_t meta_version,
                uint64_t trace_id);
PyObject *writer_slot(PyObject *writer, uint64_t seq, int index, PyObject *shape, PyObject *dtype,
                      int is_column);
void writer_start(PyObject *writer, uint64_t seq);
int writer_header(PyObject *writer, uint64_t seq, int index, const char *header,
                  Py_ssize_t header_length, uint64_t nbytes, uint64_t timestamp_ns,
                  uint32_t meta_version, int is_whole);
uint64_t monotonic_ns(void);

/* A frame that is written in place; `tensorpool.client.claims.ClaimedFrame` derives from it. */
typedef struct {
    PyObject_HEAD
    PyObject *producer, *plan, *report, *array;
    long long seq;
    unsigned long long timestamp_ns, meta_version, trace_id;
    char is_open, is_abandoned;
} ClaimState;

/* The fields of a SlotPlan. */
enum { PLAN_MAPPED, PLAN_WRITER, PLAN_POOL, PLAN_HEADER, PLAN_NBYTES, PLAN_FIELDS };

extern PyType_Spec FrameState_spec;
extern PyType_Spec SlotWriter_spec;
extern PyType_Spec SlotReader_spec;
extern PyType_Spec DescriptorSink_spec;
extern PyType_Spec UserGate_spec;
extern PyType_Spec ClaimState_spec;
extern PyType_Spec ConsumerState_spec;
extern PyType_Spec ProducerState_spec;

/* The types that others are made with; set once, when the module is. */
extern PyTypeObject *SlotReader_type, *SlotWriter_type, *DescriptorSink_type, *UserGate_type,
    *ClaimState_type;

#endif
