/* SlotWriter: from an array to a committed slot and its descriptor. */
#include "hot.h"

#include <time.h>

enum {
    HEADERS = 8,
    /* Copies shorter than this keep the interpreter lock: giving it back could cost more. */
    UNLOCKED_BYTES = 128 * 1024,
};

/* The header of a shape that was published lately. */
typedef struct {
    int type; /* numpy's type number */
    int ndims; /* 0: empty entry */
    int is_column;
    npy_intp shape[MAX_DIMS];
    uint8_t header[TENSOR_HEADER_BYTES];
} Header;

typedef struct {
    PyObject_HEAD
    Regions regions;
    PyObject *encode;
    PyObject *message; /* bytearray, offered again and again */
    unsigned int next_header;
    Header headers[HEADERS];
} SlotWriter;

static PyObject *writer_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"ring", "pools", "nslots", "stream_id", "epoch",
                            "prefix", "encode", "cache_bytes", NULL};
    PyObject *ring, *pools, *encode;
    unsigned long long nslots, epoch, cache_bytes;
    unsigned int stream_id;
    Py_buffer prefix;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOKIKy*OK", names, &ring, &pools, &nslots,
                                     &stream_id, &epoch, &prefix, &encode, &cache_bytes)) {
        return NULL;
    }
    SlotWriter *self = NULL;
    if (prefix.len != MESSAGE_HEADER_BYTES) {
        PyErr_SetString(PyExc_ValueError, "prefix must be a message header of 8 bytes");
        goto done;
    }
    self = (SlotWriter *)type->tp_alloc(type, 0);
    if (self == NULL) {
        goto done;
    }
    DescriptorMessage message;
    memset(&message, 0, sizeof message);
    memcpy(message.prefix, prefix.buf, MESSAGE_HEADER_BYTES);
    PUT(message.stream_id, stream_id);
    uint64_t epoch64 = epoch, null64 = UINT64_MAX;
    PUT(message.epoch, epoch64);
    /* Wire §10.2.1: the time of publication may be null; a clock call a frame would say little. */
    PUT(message.published_ns, null64);
    self->message = PyByteArray_FromStringAndSize((const char *)&message, sizeof message);
    self->encode = Py_NewRef(encode);
    if (self->message == NULL || regions_open(&self->regions, ring, pools, nslots, 1) < 0) {
        Py_CLEAR(self);
        goto done;
    }
    for (int i = 0; i < self->regions.pool_count; i++) {
        Pool *pool = &self->regions.pools[i];
        pool->streamed = pool->stride * nslots > cache_bytes;
    }
done:
    PyBuffer_Release(&prefix);
    return (PyObject *)self;
}

static int writer_traverse(PyObject *object, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(((SlotWriter *)object)->encode);
    return 0;
}

static int writer_clear(PyObject *object)
{
    Py_CLEAR(((SlotWriter *)object)->encode);
    return 0;
}

static void writer_dealloc(PyObject *object)
{
    SlotWriter *self = (SlotWriter *)object;
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    writer_clear(object);
    Py_CLEAR(self->message);
    regions_close(&self->regions);
    type->tp_free(object);
    Py_DECREF(type);
}

/* The embedded header of arrays like this one; NULL without an error: not for this path. */
static const uint8_t *header_of(SlotWriter *self, PyArrayObject *array, int is_column)
{
    int type = PyArray_TYPE(array), ndims = PyArray_NDIM(array);
    const npy_intp *shape = PyArray_DIMS(array);
    size_t shape_bytes = (size_t)ndims * sizeof *shape;
    for (int i = 0; i < HEADERS; i++) {
        Header *entry = &self->headers[i];
        if (entry->ndims == ndims && entry->type == type && entry->is_column == is_column &&
            memcmp(entry->shape, shape, shape_bytes) == 0) {
            return entry->header;
        }
    }
    PyObject *bytes =
        PyObject_CallFunction(self->encode, "Oi", (PyObject *)array, is_column);
    if (bytes == NULL) {
        return NULL;
    }
    if (!PyBytes_Check(bytes) || PyBytes_GET_SIZE(bytes) != TENSOR_HEADER_BYTES) {
        Py_DECREF(bytes);
        PyErr_SetString(PyExc_TypeError, "encode must return 192 bytes");
        return NULL;
    }
    Header *entry = &self->headers[self->next_header++ % HEADERS];
    entry->type = type;
    entry->ndims = ndims;
    entry->is_column = is_column;
    memcpy(entry->shape, shape, shape_bytes);
    memcpy(entry->header, PyBytes_AS_STRING(bytes), TENSOR_HEADER_BYTES);
    Py_DECREF(bytes);
    return entry->header;
}

static void write_body(SlotWriter *self, HeaderSlot *slot, uint64_t seq, const Pool *pool,
                       const uint8_t *header, uint32_t nbytes, uint64_t timestamp_ns,
                       uint32_t meta_version)
{
    uint32_t payload_slot = (uint32_t)(seq & self->regions.mask);
    uint32_t zero = 0, header_length = TENSOR_HEADER_BYTES;
    uint16_t pool_id = pool->pool_id;
    PUT(slot->values_len, nbytes);
    PUT(slot->payload_slot, payload_slot);
    PUT(slot->pool_id, pool_id);
    PUT(slot->payload_offset, zero);
    PUT(slot->timestamp_ns, timestamp_ns);
    PUT(slot->meta_version, meta_version);
    PUT(slot->header_length, header_length);
    memcpy(slot->tensor_header, header, TENSOR_HEADER_BYTES);
}

uint64_t monotonic_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* Tell the consumers; whether the offer was accepted. An error of the offer is no error here:
 * the caller offers again in Python, where the rules for lost connections are. */
int writer_tell(PyObject *object, PyObject *offer, uint64_t seq, uint32_t meta_version,
                uint64_t trace_id)
{
    SlotWriter *self = (SlotWriter *)object;
    DescriptorMessage *message = (DescriptorMessage *)PyByteArray_AS_STRING(self->message);
    uint32_t version = meta_version ? meta_version : UINT32_MAX;
    PUT(message->seq, seq);
    PUT(message->meta_version, version);
    PUT(message->trace_id, trace_id);
    PyObject *result = PyObject_CallOneArg(offer, self->message);
    if (result == NULL) {
        PyErr_Clear();
        return 0;
    }
    int is_sent = result == Py_True;
    Py_DECREF(result);
    return is_sent;
}

/* Copy, commit and tell in one go; NOT_THIS_WAY if nothing was done: a plain contiguous array of
 * the machine's byte order is needed, and a pool that it fits. `timestamp_ns`: None for now. */
Published writer_send(PyObject *object, PyObject *source, uint64_t seq, PyObject *timestamp_ns,
                      uint64_t meta_version, uint64_t trace_id, PyObject *offer)
{
    SlotWriter *self = (SlotWriter *)object;
    PyArrayObject *array = (PyArrayObject *)source;
    if (!PyArray_CheckExact(source) || !PyArray_ISNOTSWAPPED(array) || PyArray_NDIM(array) < 1 ||
        PyArray_NDIM(array) > MAX_DIMS) {
        return NOT_THIS_WAY;
    }
    int is_column = !PyArray_IS_C_CONTIGUOUS(array);
    if (is_column && !PyArray_IS_F_CONTIGUOUS(array)) {
        return NOT_THIS_WAY;
    }
    uint64_t nbytes = (uint64_t)PyArray_NBYTES(array);
    const Pool *pool = NULL;
    for (int i = 0; i < self->regions.pool_count; i++) {
        if (self->regions.pools[i].stride >= nbytes) {
            pool = &self->regions.pools[i];
            break;
        }
    }
    if (pool == NULL || nbytes > UINT32_MAX) {
        return NOT_THIS_WAY;
    }
    uint64_t captured_ns = 0;
    if ((timestamp_ns != Py_None && u64_of(timestamp_ns, &captured_ns) < 0) ||
        captured_ns == UINT64_MAX || meta_version >= UINT32_MAX) {
        PyErr_Clear(); /* frame_fields says what is wrong */
        return NOT_THIS_WAY;
    }
    const uint8_t *header = header_of(self, array, is_column);
    if (header == NULL) {
        return FAILED;
    }
    HeaderSlot *slot = regions_slot(&self->regions, seq);
    store_in_progress(&slot->commit, seq);
    char *target = pool_slot(&self->regions, pool, seq);
    if (nbytes < UNLOCKED_BYTES) {
        memcpy(target, PyArray_DATA(array), nbytes);
    } else {
        Py_BEGIN_ALLOW_THREADS
        copy_payload(target, PyArray_DATA(array), nbytes, pool->streamed);
        Py_END_ALLOW_THREADS
    }
    if (timestamp_ns == Py_None) {
        captured_ns = monotonic_ns();
    }
    write_body(self, slot, seq, pool, header, (uint32_t)nbytes, captured_ns,
               (uint32_t)meta_version);
    store_committed(&slot->commit, seq);
    if (offer == Py_None || !writer_tell(object, offer, seq, (uint32_t)meta_version, trace_id)) {
        return COMMITTED;
    }
    return TOLD;
}

/* publish(array, seq, timestamp_ns, meta_version, trace_id, offer): True if committed and told,
 * False if committed and still to be told, None if nothing was done. */
static PyObject *writer_publish(PyObject *object, PyObject *const *args, Py_ssize_t count)
{
    if (count != 6) {
        PyErr_SetString(PyExc_TypeError,
                        "publish(array, seq, timestamp_ns, meta_version, trace_id, offer)");
        return NULL;
    }
    uint64_t seq, meta_version, trace_id;
    if (u64_of(args[1], &seq) < 0 || u64_of(args[3], &meta_version) < 0 ||
        u64_of(args[4], &trace_id) < 0) {
        return NULL;
    }
    switch (writer_send(object, args[0], seq, args[2], meta_version, trace_id, args[5])) {
    case FAILED:
        return NULL;
    case NOT_THIS_WAY:
        Py_RETURN_NONE;
    case COMMITTED:
        Py_RETURN_FALSE;
    default:
        Py_RETURN_TRUE;
    }
}

void writer_start(PyObject *object, uint64_t seq)
{
    store_in_progress(&regions_slot(&((SlotWriter *)object)->regions, seq)->commit, seq);
}

/* begin(seq): from here on consumers know that the slot of `seq` is being written. */
static PyObject *writer_begin(PyObject *object, PyObject *argument)
{
    uint64_t seq = PyLong_AsUnsignedLongLong(argument);
    if (PyErr_Occurred()) {
        return NULL;
    }
    writer_start(object, seq);
    Py_RETURN_NONE;
}

/* The slot as a writable array. */
PyObject *writer_slot(PyObject *object, uint64_t seq, int index, PyObject *shape, PyObject *dtype,
                      int is_column)
{
    SlotWriter *self = (SlotWriter *)object;
    int ndims = 0;
    npy_intp dims[MAX_DIMS];
    if (index < 0 || index >= self->regions.pool_count || PyTuple_GET_SIZE(shape) > MAX_DIMS) {
        PyErr_SetString(PyExc_ValueError, "no such pool, or more than 8 dimensions");
        return NULL;
    }
    const Pool *pool = &self->regions.pools[index];
    uint64_t nbytes = (uint64_t)PyDataType_ELSIZE((PyArray_Descr *)dtype);
    for (; ndims < PyTuple_GET_SIZE(shape); ndims++) {
        dims[ndims] = PyLong_AsSsize_t(PyTuple_GET_ITEM(shape, ndims));
        if (PyErr_Occurred()) {
            return NULL;
        }
        if (dims[ndims] < 0 || __builtin_mul_overflow(nbytes, (uint64_t)dims[ndims], &nbytes)) {
            PyErr_SetString(PyExc_ValueError, "a dimension is negative or far too large");
            return NULL;
        }
    }
    if (nbytes > pool->stride) {
        PyErr_SetString(PyExc_ValueError, "the array is longer than the slot");
        return NULL;
    }
    Py_INCREF(dtype);
    PyObject *array = PyArray_NewFromDescr(
        &PyArray_Type, (PyArray_Descr *)dtype, ndims, dims, NULL,
        pool_slot(&self->regions, pool, seq),
        NPY_ARRAY_WRITEABLE | (is_column ? NPY_ARRAY_F_CONTIGUOUS : 0), NULL);
    if (array == NULL) {
        return NULL;
    }
    if (PyArray_SetBaseObject((PyArrayObject *)array, Py_NewRef(pool->memory)) < 0) {
        Py_DECREF(array);
        return NULL;
    }
    return array;
}

/* view(seq, pool_index, shape, dtype, is_column) */
static PyObject *writer_view(PyObject *object, PyObject *args)
{
    unsigned long long seq;
    int index, is_column;
    PyObject *shape, *dtype;
    if (!PyArg_ParseTuple(args, "KiO!O!p", &seq, &index, &PyTuple_Type, &shape,
                          &PyArrayDescr_Type, &dtype, &is_column)) {
        return NULL;
    }
    return writer_slot(object, seq, index, shape, dtype, is_column);
}

/* The slot's header, and the frame committed if it is whole. */
int writer_header(PyObject *object, uint64_t seq, int index, const char *header,
                  Py_ssize_t header_length, uint64_t nbytes, uint64_t timestamp_ns,
                  uint32_t meta_version, int is_whole)
{
    SlotWriter *self = (SlotWriter *)object;
    if (index < 0 || index >= self->regions.pool_count ||
        header_length != TENSOR_HEADER_BYTES || nbytes > UINT32_MAX) {
        PyErr_SetString(PyExc_ValueError, "no such pool, a short header, or a frame past 4 GiB");
        return -1;
    }
    HeaderSlot *slot = regions_slot(&self->regions, seq);
    write_body(self, slot, seq, &self->regions.pools[index], (const uint8_t *)header,
               (uint32_t)nbytes, timestamp_ns, meta_version);
    if (is_whole) {
        store_committed(&slot->commit, seq);
    }
    return 0;
}

/* body(seq, pool_index, header, nbytes, timestamp_ns, meta_version, is_whole) */
static PyObject *writer_body(PyObject *object, PyObject *args)
{
    unsigned long long seq, nbytes, timestamp_ns;
    unsigned int meta_version;
    int index, is_whole;
    const char *header;
    Py_ssize_t header_length;
    if (!PyArg_ParseTuple(args, "Kiy#KKIp", &seq, &index, &header, &header_length, &nbytes,
                          &timestamp_ns, &meta_version, &is_whole)) {
        return NULL;
    }
    if (writer_header(object, seq, index, header, header_length, nbytes, timestamp_ns,
                      meta_version, is_whole) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyMethodDef writer_methods[] = {
    {"publish", (PyCFunction)(void (*)(void))writer_publish, METH_FASTCALL,
     "publish(array, seq, timestamp_ns, meta_version, trace_id, offer)"},
    {"begin", writer_begin, METH_O, "begin(seq)"},
    {"view", writer_view, METH_VARARGS, "view(seq, pool_index, shape, dtype, is_column)"},
    {"body", writer_body, METH_VARARGS,
     "body(seq, pool_index, header, nbytes, timestamp_ns, meta_version, is_whole)"},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot writer_slots[] = {
    {Py_tp_new, writer_new},
    {Py_tp_dealloc, writer_dealloc},
    {Py_tp_traverse, writer_traverse},
    {Py_tp_clear, writer_clear},
    {Py_tp_methods, writer_methods},
    {Py_tp_doc, "Writes the frames of one mapped epoch."},
    {0, NULL},
};

PyType_Spec SlotWriter_spec = {
    .name = "tensorpool._hot.SlotWriter",
    .basicsize = sizeof(SlotWriter),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = writer_slots,
};
