/* DescriptorSink: what a subscription calls with each fragment (Wire §10.2.1). */
#include "hot.h"

/* Put a descriptor behind those that wait for Python. */
static int enqueue(DescriptorSink *self, const Descriptor *told)
{
    uint64_t values[] = {self->stream_id,    told->epoch,        told->seq,
                         told->published_ns, told->meta_version, told->trace_id};
    PyObject *descriptor = PyTuple_New(6);
    if (descriptor == NULL) {
        return -1;
    }
    for (int i = 0; i < 6; i++) {
        PyObject *value = PyLong_FromUnsignedLongLong(values[i]);
        if (value == NULL) {
            Py_DECREF(descriptor);
            return -1;
        }
        PyTuple_SET_ITEM(descriptor, i, value);
    }
    PyObject *result = PyObject_CallOneArg(self->append, descriptor);
    Py_DECREF(descriptor);
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

/* Put what is left of the batch into the queue: it is older than whatever comes next. */
static int enqueue_batch(DescriptorSink *self)
{
    while (self->count) {
        if (enqueue(self, &self->batch[self->first]) < 0) {
            return -1;
        }
        self->first++;
        self->count--;
    }
    self->first = 0;
    return 0;
}

/* sink(buffer, header): append the descriptor if it is one, and of the sink's stream. */
static PyObject *sink_call(PyObject *object, PyObject *const *args, size_t flags, PyObject *names)
{
    DescriptorSink *self = (DescriptorSink *)object;
    if (PyVectorcall_NARGS(flags) != 2 || names != NULL) {
        PyErr_SetString(PyExc_TypeError, "sink(buffer, header)");
        return NULL;
    }
    Py_buffer buffer;
    if (PyObject_GetBuffer(args[0], &buffer, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    DescriptorMessage message;
    int is_descriptor = buffer.len == sizeof message;
    if (is_descriptor) {
        memcpy(&message, buffer.buf, sizeof message);
        is_descriptor = memcmp(message.prefix, self->prefix, MESSAGE_HEADER_BYTES) == 0;
    }
    PyBuffer_Release(&buffer);
    if (!is_descriptor) {
        Py_RETURN_NONE; /* other messages may share the stream (Wire §5) */
    }
    uint32_t stream_id;
    GET(message.stream_id, stream_id);
    if (stream_id != self->stream_id) {
        Py_RETURN_NONE;
    }
    Descriptor told;
    GET(message.epoch, told.epoch);
    GET(message.seq, told.seq);
    GET(message.published_ns, told.published_ns);
    GET(message.meta_version, told.meta_version);
    GET(message.trace_id, told.trace_id);
    if (told.seq >> 63) {
        Py_RETURN_NONE; /* no commit word can hold it (Wire §8.3) */
    }
    if (self->is_direct && self->first + self->count < BATCH) {
        self->batch[self->first + self->count++] = told;
    } else if (enqueue_batch(self) < 0 || enqueue(self, &told) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *sink_waiting(PyObject *object, void *closure)
{
    (void)closure;
    DescriptorSink *self = (DescriptorSink *)object;
    return enqueue_batch(self) < 0 ? NULL : Py_NewRef(self->waiting);
}

static PyObject *sink_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"prefix", "stream_id", "waiting", NULL};
    Py_buffer prefix;
    unsigned int stream_id;
    PyObject *waiting;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "y*IO", names, &prefix, &stream_id, &waiting)) {
        return NULL;
    }
    PyObject *append = PyObject_GetAttrString(waiting, "append");
    if (append == NULL) {
        PyBuffer_Release(&prefix);
        return NULL;
    }
    DescriptorSink *self = NULL;
    if (prefix.len != MESSAGE_HEADER_BYTES) {
        PyErr_SetString(PyExc_ValueError, "prefix must be a message header of 8 bytes");
    } else {
        self = (DescriptorSink *)type->tp_alloc(type, 0);
    }
    if (self != NULL) {
        self->call = sink_call;
        self->append = Py_NewRef(append);
        self->waiting = Py_NewRef(waiting);
        self->stream_id = stream_id;
        memcpy(self->prefix, prefix.buf, MESSAGE_HEADER_BYTES);
    }
    Py_DECREF(append);
    PyBuffer_Release(&prefix);
    return (PyObject *)self;
}

static int sink_traverse(PyObject *object, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(((DescriptorSink *)object)->append);
    Py_VISIT(((DescriptorSink *)object)->waiting);
    return 0;
}

static int sink_clear(PyObject *object)
{
    Py_CLEAR(((DescriptorSink *)object)->append);
    Py_CLEAR(((DescriptorSink *)object)->waiting);
    return 0;
}

static void sink_dealloc(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    sink_clear(object);
    type->tp_free(object);
    Py_DECREF(type);
}

static PyGetSetDef sink_attributes[] = {
    {"waiting", sink_waiting, NULL, "The queue of the descriptors that were not taken yet.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef sink_members[] = {
    {"__vectorcalloffset__", Py_T_PYSSIZET, offsetof(DescriptorSink, call), Py_READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot sink_slots[] = {
    {Py_tp_new, sink_new},
    {Py_tp_dealloc, sink_dealloc},
    {Py_tp_traverse, sink_traverse},
    {Py_tp_clear, sink_clear},
    {Py_tp_call, PyVectorcall_Call},
    {Py_tp_members, sink_members},
    {Py_tp_getset, sink_attributes},
    {Py_tp_doc, "Keeps the descriptors of one stream, in a queue."},
    {0, NULL},
};

PyType_Spec DescriptorSink_spec = {
    .name = "tensorpool._hot.DescriptorSink",
    .basicsize = sizeof(DescriptorSink),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL,
    .slots = sink_slots,
};
