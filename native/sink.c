/* DescriptorSink: what a subscription calls with each fragment (Wire §10.2.1). */
#include "hot.h"

typedef struct {
    PyObject_HEAD
    vectorcallfunc call;
    PyObject *append;
    unsigned int stream_id;
    uint8_t prefix[MESSAGE_HEADER_BYTES];
} DescriptorSink;

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
    uint32_t stream_id, meta_version;
    uint64_t epoch, seq, published_ns, trace_id;
    GET(message.stream_id, stream_id);
    if (stream_id != self->stream_id) {
        Py_RETURN_NONE;
    }
    GET(message.epoch, epoch);
    GET(message.seq, seq);
    GET(message.published_ns, published_ns);
    GET(message.meta_version, meta_version);
    GET(message.trace_id, trace_id);
    uint64_t values[] = {stream_id, epoch, seq, published_ns, meta_version, trace_id};
    PyObject *descriptor = PyTuple_New(6);
    if (descriptor == NULL) {
        return NULL;
    }
    for (int i = 0; i < 6; i++) {
        PyObject *value = PyLong_FromUnsignedLongLong(values[i]);
        if (value == NULL) {
            Py_DECREF(descriptor);
            return NULL;
        }
        PyTuple_SET_ITEM(descriptor, i, value);
    }
    PyObject *result = PyObject_CallOneArg(self->append, descriptor);
    Py_DECREF(descriptor);
    return result;
}

static PyObject *sink_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"prefix", "stream_id", "append", NULL};
    Py_buffer prefix;
    unsigned int stream_id;
    PyObject *append;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "y*IO", names, &prefix, &stream_id, &append)) {
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
        self->stream_id = stream_id;
        memcpy(self->prefix, prefix.buf, MESSAGE_HEADER_BYTES);
    }
    PyBuffer_Release(&prefix);
    return (PyObject *)self;
}

static int sink_traverse(PyObject *object, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(((DescriptorSink *)object)->append);
    return 0;
}

static int sink_clear(PyObject *object)
{
    Py_CLEAR(((DescriptorSink *)object)->append);
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
    {Py_tp_doc, "Appends the descriptors of one stream to a queue."},
    {0, NULL},
};

PyType_Spec DescriptorSink_spec = {
    .name = "tensorpool._hot.DescriptorSink",
    .basicsize = sizeof(DescriptorSink),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL,
    .slots = sink_slots,
};
