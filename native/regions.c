/* Taking hold of the buffers of an epoch's mapped regions. */
#include "hot.h"

static int pool_open(Pool *pool, PyObject *item, uint64_t nslots, int writable)
{
    unsigned int pool_id;
    unsigned long long stride;
    PyObject *memory;
    if (!PyArg_ParseTuple(item, "IKO", &pool_id, &stride, &memory)) {
        return -1;
    }
    pool->memory = PyMemoryView_FromObject(memory);
    if (pool->memory == NULL) {
        return -1;
    }
    if (PyObject_GetBuffer(pool->memory, &pool->buffer, writable ? PyBUF_WRITABLE : 0) < 0) {
        Py_CLEAR(pool->memory);
        return -1;
    }
    pool->pool_id = (uint16_t)pool_id;
    pool->stride = stride;
    if (stride > (uint64_t)PY_SSIZE_T_MAX / nslots ||
        (uint64_t)pool->buffer.len < SUPERBLOCK_BYTES + nslots * stride) {
        PyErr_SetString(PyExc_ValueError, "a pool's mapping is shorter than its slots");
        PyBuffer_Release(&pool->buffer);
        Py_CLEAR(pool->memory);
        return -1;
    }
    return 0;
}

int regions_open(Regions *regions, PyObject *ring, PyObject *pools, unsigned long long nslots,
                 int writable)
{
    if (nslots == 0 || nslots & (nslots - 1) || nslots > (1ULL << 48)) {
        PyErr_SetString(PyExc_ValueError, "the number of slots is no power of two");
        return -1;
    }
    if (PyObject_GetBuffer(ring, &regions->ring, writable ? PyBUF_WRITABLE : 0) < 0) {
        return -1;
    }
    regions->mask = nslots - 1;
    if ((uint64_t)regions->ring.len < SUPERBLOCK_BYTES + nslots * HEADER_SLOT_BYTES ||
        (uintptr_t)regions->ring.buf % 64 != 0) {
        PyErr_SetString(PyExc_ValueError, "the header ring is too short or not aligned");
        return -1;
    }
    PyObject *sequence = PySequence_Fast(pools, "pools must be a sequence");
    if (sequence == NULL) {
        return -1;
    }
    Py_ssize_t count = PySequence_Fast_GET_SIZE(sequence);
    if (count > MAX_POOLS) {
        Py_DECREF(sequence);
        PyErr_SetString(PyExc_ValueError, "too many pools for the native path");
        return -1;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *item = PySequence_Fast_GET_ITEM(sequence, i);
        if (pool_open(&regions->pools[i], item, nslots, writable) < 0) {
            Py_DECREF(sequence);
            return -1;
        }
        regions->pool_count = (int)i + 1;
    }
    Py_DECREF(sequence);
    return 0;
}

/* Also for regions that were opened in part, in zeroed memory. */
void regions_close(Regions *regions)
{
    for (int i = 0; i < regions->pool_count; i++) {
        PyBuffer_Release(&regions->pools[i].buffer);
        Py_CLEAR(regions->pools[i].memory);
    }
    regions->pool_count = 0;
    PyBuffer_Release(&regions->ring);
}
