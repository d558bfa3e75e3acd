/* SlotReader: from a descriptor to a frame, every rule of Wire §8.2 and §8.3 checked. */
#include "hot.h"

enum { LAYOUTS = 4 };

/* What a tensor header said, for the next frame with the same one. */
typedef struct {
    PyObject *layout; /* NULL: empty entry */
    PyArray_Descr *dtype;
    uint32_t values_len;
    int ndims;
    npy_intp shape[MAX_DIMS];
    npy_intp strides[MAX_DIMS];
    uint64_t nbytes;
    uint8_t header[TENSOR_HEADER_BYTES];
} Layout;

typedef struct {
    PyObject_HEAD
    Regions regions;
    PyTypeObject *frame_type;
    PyObject *consumer;
    PyObject *decode;
    PyObject *refused;
    PyObject *empty;
    unsigned int next_layout;
    Layout layouts[LAYOUTS];
} SlotReader;

static PyObject *reader_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"ring", "pools", "nslots", "frame_type", "consumer",
                            "decode", "refused", "empty", NULL};
    PyObject *ring, *pools, *frame_type, *consumer, *decode, *refused, *empty;
    unsigned long long nslots;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOKOOOOO", names, &ring, &pools, &nslots,
                                     &frame_type, &consumer, &decode, &refused, &empty)) {
        return NULL;
    }
    PyObject *module = PyType_GetModule(type);
    PyObject *base = module == NULL ? NULL : PyObject_GetAttrString(module, "FrameState");
    if (base == NULL) {
        return NULL;
    }
    int is_frame = PyType_Check(frame_type) &&
                   PyType_IsSubtype((PyTypeObject *)frame_type, (PyTypeObject *)base);
    Py_DECREF(base);
    if (!is_frame) {
        PyErr_SetString(PyExc_TypeError, "frame_type must derive from FrameState");
        return NULL;
    }
    SlotReader *self = (SlotReader *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    self->frame_type = (PyTypeObject *)Py_NewRef(frame_type);
    self->consumer = Py_NewRef(consumer);
    self->decode = Py_NewRef(decode);
    self->refused = Py_NewRef(refused);
    self->empty = Py_NewRef(empty);
    if (regions_open(&self->regions, ring, pools, nslots, 0) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static int reader_traverse(PyObject *object, visitproc visit, void *arg)
{
    SlotReader *self = (SlotReader *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->frame_type);
    Py_VISIT(self->consumer);
    Py_VISIT(self->decode);
    Py_VISIT(self->refused);
    Py_VISIT(self->empty);
    return 0;
}

static int reader_clear(PyObject *object)
{
    SlotReader *self = (SlotReader *)object;
    Py_CLEAR(self->consumer);
    Py_CLEAR(self->decode);
    Py_CLEAR(self->empty);
    Py_CLEAR(self->refused);
    return 0;
}

static void reader_dealloc(PyObject *object)
{
    SlotReader *self = (SlotReader *)object;
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    reader_clear(object);
    Py_CLEAR(self->frame_type);
    for (int i = 0; i < LAYOUTS; i++) {
        Py_CLEAR(self->layouts[i].layout);
        Py_CLEAR(self->layouts[i].dtype);
    }
    regions_close(&self->regions);
    type->tp_free(object);
    Py_DECREF(type);
}

static int dims_of(PyObject *layout, const char *name, npy_intp *values, int expected)
{
    PyObject *tuple = PyObject_GetAttrString(layout, name);
    if (tuple == NULL) {
        return -1;
    }
    Py_ssize_t count = PyTuple_Check(tuple) ? PyTuple_GET_SIZE(tuple) : -1;
    if (count < 1 || count > MAX_DIMS || (expected && count != expected)) {
        Py_DECREF(tuple);
        PyErr_SetString(PyExc_TypeError, "shape and strides must be tuples of 1 to 8");
        return -1;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        values[i] = PyLong_AsSsize_t(PyTuple_GET_ITEM(tuple, i));
    }
    Py_DECREF(tuple);
    return PyErr_Occurred() ? -1 : (int)count;
}

/* Decode a header that was not seen lately, by the one owner of the rules: `decode`. */
static Layout *layout_decode(SlotReader *self, const uint8_t *header, uint32_t values_len)
{
    PyObject *layout = PyObject_CallFunction(self->decode, "y#I", (const char *)header,
                                             (Py_ssize_t)TENSOR_HEADER_BYTES, values_len);
    if (layout == NULL) {
        return NULL;
    }
    PyObject *dtype = PyObject_GetAttrString(layout, "dtype");
    PyObject *nbytes = PyObject_GetAttrString(layout, "nbytes");
    Layout made = {.layout = layout, .values_len = values_len};
    if (dtype == NULL || nbytes == NULL || !PyArray_DescrCheck(dtype) ||
        (made.ndims = dims_of(layout, "shape", made.shape, 0)) < 0 ||
        dims_of(layout, "strides", made.strides, made.ndims) < 0) {
        goto failed;
    }
    made.nbytes = PyLong_AsUnsignedLongLong(nbytes);
    if (PyErr_Occurred()) {
        goto failed;
    }
    Py_DECREF(nbytes);
    made.dtype = (PyArray_Descr *)dtype;
    memcpy(made.header, header, TENSOR_HEADER_BYTES);
    Layout *entry = &self->layouts[self->next_layout++ % LAYOUTS];
    PyObject *old_layout = entry->layout;
    PyArray_Descr *old_dtype = entry->dtype;
    *entry = made;
    Py_XDECREF(old_layout);
    Py_XDECREF(old_dtype);
    return entry;
failed:
    if (!PyErr_Occurred()) {
        PyErr_SetString(PyExc_TypeError, "decode must return a layout");
    }
    Py_DECREF(layout);
    Py_XDECREF(dtype);
    Py_XDECREF(nbytes);
    return NULL;
}

static Layout *layout_find(SlotReader *self, const uint8_t *header, uint32_t values_len)
{
    for (int i = 0; i < LAYOUTS; i++) {
        Layout *entry = &self->layouts[i];
        if (entry->layout != NULL && entry->values_len == values_len &&
            memcmp(entry->header, header, TENSOR_HEADER_BYTES) == 0) {
            return entry;
        }
    }
    return layout_decode(self, header, values_len);
}

static PyObject *array_in(const Pool *pool, char *data, const Layout *layout)
{
    Py_INCREF(layout->dtype);
    PyObject *array = PyArray_NewFromDescr(&PyArray_Type, layout->dtype, layout->ndims,
                                           layout->shape, layout->strides, data, 0, NULL);
    if (array == NULL) {
        return NULL;
    }
    if (PyArray_SetBaseObject((PyArrayObject *)array, Py_NewRef(pool->memory)) < 0) {
        Py_DECREF(array);
        return NULL;
    }
    return array;
}

/* A refusal of `decode` is the frame's fault, and counted; any other error is ours. */
static PyObject *invalid(SlotReader *self)
{
    if (PyErr_Occurred()) {
        if (!PyErr_ExceptionMatches(self->refused)) {
            return NULL;
        }
        PyErr_Clear();
    }
    Py_RETURN_FALSE;
}

/* The frame; None if it is late; False if it is invalid. */
PyObject *reader_frame(PyObject *object, uint64_t seq, uint64_t epoch, uint64_t published_ns,
                       uint64_t trace_id)
{
    SlotReader *self = (SlotReader *)object;
    uint64_t commit = committed_word(seq);
    HeaderSlot *slot = regions_slot(&self->regions, seq);
    if (atomic_load_explicit(&slot->commit, memory_order_acquire) != commit) {
        Py_RETURN_NONE;
    }
    HeaderSlot copy;
    memcpy((char *)&copy + 8, (char *)slot + 8, sizeof copy - 8);
    if (!still_holds(&slot->commit, commit)) {
        Py_RETURN_NONE;
    }
    uint32_t values_len, payload_slot, payload_offset, header_length, meta_version;
    uint16_t pool_id;
    uint64_t timestamp_ns;
    GET(copy.values_len, values_len);
    GET(copy.payload_slot, payload_slot);
    GET(copy.pool_id, pool_id);
    GET(copy.payload_offset, payload_offset);
    GET(copy.timestamp_ns, timestamp_ns);
    GET(copy.meta_version, meta_version);
    GET(copy.header_length, header_length);
    const Pool *pool = NULL;
    for (int i = 0; i < self->regions.pool_count; i++) {
        if (self->regions.pools[i].pool_id == pool_id) {
            pool = &self->regions.pools[i];
            break;
        }
    }
    if (pool == NULL || payload_slot != (seq & self->regions.mask) || payload_offset != 0 ||
        header_length != TENSOR_HEADER_BYTES || values_len > pool->stride) {
        return invalid(self);
    }
    Layout *layout = layout_find(self, copy.tensor_header, values_len);
    if (layout == NULL || layout->nbytes > pool->stride) {
        return invalid(self);
    }
    PyObject *array = values_len == 0
                          ? PyObject_CallOneArg(self->empty, layout->layout)
                          : array_in(pool, pool_slot(&self->regions, pool, seq), layout);
    if (array == NULL) {
        return NULL;
    }
    FrameState *frame = (FrameState *)self->frame_type->tp_alloc(self->frame_type, 0);
    if (frame == NULL) {
        Py_DECREF(array);
        return NULL;
    }
    frame->array = array;
    frame->layout = Py_NewRef(layout->layout);
    frame->consumer = Py_NewRef(self->consumer);
    frame->reader = Py_NewRef(object);
    frame->word = &slot->commit;
    frame->commit = commit;
    frame->seq = seq;
    frame->epoch = epoch;
    frame->timestamp_ns = timestamp_ns;
    frame->published_ns = published_ns;
    frame->trace_id = trace_id;
    frame->meta_version = meta_version;
    return (PyObject *)frame;
}

/* read(seq, epoch, published_ns, trace_id): the frame; None if it is late; False if invalid. */
static PyObject *reader_read(PyObject *object, PyObject *const *args, Py_ssize_t count)
{
    if (count != 4) {
        PyErr_SetString(PyExc_TypeError, "read(seq, epoch, published_ns, trace_id)");
        return NULL;
    }
    uint64_t values[4];
    for (int i = 0; i < 4; i++) {
        values[i] = PyLong_AsUnsignedLongLong(args[i]);
        if (values[i] == UINT64_MAX && PyErr_Occurred()) {
            return NULL;
        }
    }
    return reader_frame(object, values[0], values[1], values[2], values[3]);
}

/* The latest seq whose slot the producer has surely taken again, if `seq` is late: it goes round
 * in order. -1 if nothing is known. */
int64_t reader_newest_overtaken(PyObject *object, uint64_t seq)
{
    SlotReader *self = (SlotReader *)object;
    HeaderSlot *slot = regions_slot(&self->regions, seq);
    uint64_t newest = atomic_load_explicit(&slot->commit, memory_order_acquire) >> 1;
    if (newest <= seq || (newest - seq) & self->regions.mask) {
        return -1;
    }
    return (int64_t)(newest - self->regions.mask - 1);
}

static PyObject *reader_overtaken(PyObject *object, PyObject *argument)
{
    uint64_t seq = PyLong_AsUnsignedLongLong(argument);
    if (seq == UINT64_MAX && PyErr_Occurred()) {
        return NULL;
    }
    return PyLong_FromLongLong(reader_newest_overtaken(object, seq));
}

static PyMethodDef reader_methods[] = {
    {"overtaken", reader_overtaken, METH_O, "overtaken(seq)"},
    {"read", (PyCFunction)(void (*)(void))reader_read, METH_FASTCALL,
     "read(seq, epoch, published_ns, trace_id): the frame, None if late, False if invalid."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot reader_slots[] = {
    {Py_tp_new, reader_new},
    {Py_tp_dealloc, reader_dealloc},
    {Py_tp_traverse, reader_traverse},
    {Py_tp_clear, reader_clear},
    {Py_tp_methods, reader_methods},
    {Py_tp_doc, "Reads the frames of one mapped epoch."},
    {0, NULL},
};

PyType_Spec SlotReader_spec = {
    .name = "tensorpool._hot.SlotReader",
    .basicsize = sizeof(SlotReader),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = reader_slots,
};
