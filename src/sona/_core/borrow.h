// Borrowing an ndarray's memory through the NumPy C API.
//
// A typed memoryview costs about 230 ns per argument, these checks about 5 ns. They say yes only to
// what a kernel can use as it is; whoever gets a no asks the Python side for the words.
#pragma once

#include <Python.h>
#include <numpy/arrayobject.h>

static inline int sona_is_ready(PyObject *x, int type, int ndim) {
    if (!PyArray_Check(x)) return 0;
    PyArrayObject *a = (PyArrayObject *)x;
    return PyArray_TYPE(a) == type && PyArray_NDIM(a) == ndim && PyArray_ISCARRAY_RO(a);
}

static inline int sona_is_ready_out(PyObject *x, int type, int ndim) {
    return sona_is_ready(x, type, ndim) && PyArray_ISWRITEABLE((PyArrayObject *)x);
}

static inline npy_intp sona_dim(PyObject *x, int axis) {
    return PyArray_DIM((PyArrayObject *)x, axis);
}

static inline void *sona_data(PyObject *x) { return PyArray_DATA((PyArrayObject *)x); }

static inline PyObject *sona_new_like(PyObject *x) {
    PyArrayObject *a = (PyArrayObject *)x;
    return PyArray_SimpleNew(PyArray_NDIM(a), PyArray_DIMS(a), NPY_FLOAT32);
}

// Shape (k,) for a single query, else (m, k).
static inline PyObject *sona_new(int single, npy_intp m, npy_intp k, int type) {
    npy_intp shape[2] = {m, k};
    return PyArray_SimpleNew(single ? 1 : 2, single ? shape + 1 : shape, type);
}

// Do two blocks of the same length overlap without being the same?
static inline int sona_straddles(const void *a, const void *b, size_t bytes) {
    const char *p = (const char *)a, *q = (const char *)b;
    return p != q && p < q + bytes && q < p + bytes;
}

// Handing the GIL over and taking it back costs about 50 ns and invites a switch of threads; below
// some 20 microseconds of work (about this many multiply-adds) that is a loss for everyone.
// Between the two calls only code that cannot throw may run.
static inline void *sona_release_gil(double work) {
    return work > 400000.0 ? PyEval_SaveThread() : NULL;
}

static inline void sona_retake_gil(void *thread) {
    if (thread) PyEval_RestoreThread((PyThreadState *)thread);
}
