/* An extension that is wrong on purpose: what the sanitizers must see. Built with the
 * flags of the instrumented build and run as that is, before anything is believed. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <limits.h>
#include <stdlib.h>

static PyObject *read_behind_the_end(PyObject *self, PyObject *size)
{
    long count = PyLong_AsLong(size);
    volatile char *bytes = malloc(count);
    char last = bytes[count];
    free((void *)bytes);
    return PyLong_FromLong(last);
}

static PyObject *use_after_free(PyObject *self, PyObject *size)
{
    volatile char *bytes = malloc(PyLong_AsLong(size));
    free((void *)bytes);
    return PyLong_FromLong(bytes[0]);
}

static PyObject *shift_too_far(PyObject *self, PyObject *size)
{
    volatile int by = (int)PyLong_AsLong(size) + 32;
    return PyLong_FromLong(1 << by);
}

static PyMethodDef functions[] = {
    {"read_behind_the_end", read_behind_the_end, METH_O, NULL},
    {"use_after_free", use_after_free, METH_O, NULL},
    {"shift_too_far", shift_too_far, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, .m_name = "broken", .m_size = -1, .m_methods = functions};

PyMODINIT_FUNC PyInit_broken(void)
{
    return PyModule_Create(&module);
}
