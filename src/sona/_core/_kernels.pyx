# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# cython: freethreading_compatible=True, binding=False
# cython: embedsignature=True, embedsignature.format=clinic
"""Native twins of `sona._core.reference`: check, borrow the memory, call. No algorithm is here."""

cimport cython
from cpython.pycapsule cimport PyCapsule_GetPointer
from cpython.ref cimport PyObject, Py_DECREF
from libc.math cimport INFINITY, NAN
from libc.stdint cimport int8_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from sona._core import arrays, contracts
from sona._core.codes import RowCodes
from sona.errors import NonFiniteError, ShapeError

cdef extern from "borrow.h" nogil:
    int NPY_FLOAT32, NPY_FLOAT64, NPY_INT64, NPY_INT8

cdef extern from "borrow.h":
    int _import_array() except -1
    bint sona_is_ready(object x, int type, int ndim)
    bint sona_is_ready_out(object x, int type, int ndim)
    Py_ssize_t sona_dim(object x, int axis)
    void* sona_data(object x)
    object sona_new_like(object x)
    object sona_new(bint single, Py_ssize_t m, Py_ssize_t k, int type)
    bint sona_straddles(const void* a, const void* b, size_t size)
    void* release_gil "sona_release_gil"(double work)
    void retake_gil "sona_retake_gil"(void* thread)

cdef extern from "exchange.h" namespace "sona":
    cdef struct TensorView:
        void* data
        uint64_t byte_offset
    cdef struct OwnedTensor:
        TensorView view
    cdef struct Exchange:
        uint32_t major
        int (*give)(OwnedTensor*, void**) except -1
        int (*look)(void*, TensorView*) except -1
    int takes(const TensorView& tensor, Py_ssize_t dim, Py_ssize_t* rows)
    OwnedTensor* owned_like(const TensorView& tensor, size_t numbers)

cdef extern from "core.h" namespace "sona" nogil:
    cdef struct RowKernels:
        double (*unit)(const float* row, Py_ssize_t dim, float* unit)
        int (*all_finite)(const float* values, Py_ssize_t n)
        void (*dots)(const float* rows, Py_ssize_t n, Py_ssize_t dim, const float* query,
                     float* out)
    cdef struct BankKernels:
        void (*settle)(const double* sum, Py_ssize_t dim, float* centroid)
    cdef struct Kernels:
        const RowKernels* rows
        const BankKernels* bank
    cdef struct Codes:
        const int8_t* codes
        const float* scales
        const float* errors
        Py_ssize_t width
    cdef struct Adapter:
        float* weights
        Py_ssize_t dim, rank
        float scaling
    cdef struct DecisionStep:
        float target, temperature, rate, decay, max_norm, damping
    int capability_count()
    const char* capability_name(int i)
    int capability_active()
    void capability_activate(int i)
    const Kernels& active()
    Py_ssize_t lora_apply(const float* weights, Py_ssize_t dim, Py_ssize_t rank, float scaling,
                          const float* x, Py_ssize_t n, float* y)
    Py_ssize_t lora_apply_over(
        const float* weights, Py_ssize_t dim, Py_ssize_t rank, float scaling, const float* x,
        Py_ssize_t n, float* y)
    Py_ssize_t lora_apply_bits(
        const float* weights, Py_ssize_t dim, Py_ssize_t rank, float scaling, int format,
        const uint16_t* x, Py_ssize_t n, uint16_t* y)
    Py_ssize_t decision_scratch(Py_ssize_t dim, Py_ssize_t rank, Py_ssize_t k)
    double _decision_step "sona::decision_step"(
        const Adapter& adapter, const float* x, const float* centroids, Py_ssize_t n,
        const float* values, Py_ssize_t k, const DecisionStep& step, int64_t* indices,
        float* similarities, float* scratch)
    Py_ssize_t outcome_scratch(Py_ssize_t dim, Py_ssize_t rank, Py_ssize_t n, Py_ssize_t k)
    double _outcome_step "sona::outcome_step"(
        const Adapter& lower, const Adapter& upper, const float* x, const float* centroids,
        Py_ssize_t n, const float* values, Py_ssize_t k, const DecisionStep& step, double* gate,
        float* similarities, float* scratch)
    double _gate_trust "sona::gate_trust"(const double* gate)
    void _gate_observe "sona::gate_observe"(double* gate, double expected, double target)
    void _expected_values "sona::expected_values"(
        const double* outcomes, Py_ssize_t n, double blind, double floor, double strength,
        float* values)
    Py_ssize_t _choose_cell "sona::choose_cell"(
        const float* similarities, Py_ssize_t n, const double* outcomes, bint accepted, float same,
        bint room, bint by_route)
    void _count_outcome "sona::count_outcome"(double quality, double* outcomes)
    cdef struct Model:
        const float* rows
        Py_ssize_t n_cells, n_routes, dim
        const int64_t* starts
        Py_ssize_t n_views, n_doubted
        const float* table
        const float* variance
        const double* level
        const Codes* codes
    bint _model_means "sona::model_means"(
        const Model& model, const float* x, double* mean, double* doubt)
    cdef struct Remembered:
        const int64_t* route
        const int64_t* order
        const double* quality
        const double* weight
        const double* fitted
    cdef struct ExpectationRule:
        double width, fresh, residual_prior, trust, low, memory_prior, edge
        Py_ssize_t nth
        int64_t learned
    cdef struct NativeOutlook "sona::Outlook":
        const Model* model
        const float* rows
        Codes codes
        Py_ssize_t n, dim, k
        Remembered memory
        const double* levels
        const double* overall
        Py_ssize_t n_routes
        ExpectationRule rule
    int NO_MEMORY, NOT_ASKED, UNKNOWN_ROUTE
    cdef struct Found:
        int64_t* rows
    Py_ssize_t found_scratch(const NativeOutlook& outlook)
    Found found_in(const NativeOutlook& outlook, double* scratch)
    bint look(const NativeOutlook& outlook, const float* x, const Found& found)
    int conclude(const NativeOutlook& outlook, const Found& found, double* expected,
                 double* deviation)
    void _precedents "sona::precedents"(
        const Remembered& memory, const int64_t* rows, const int64_t* before, Py_ssize_t m,
        const int64_t* near, const float* similarities, Py_ssize_t k, Py_ssize_t nth,
        double width, double* mass, double* mean)
    cdef struct Judgement:
        double width, memory_prior, choice_prior, fade, said_fade
        Py_ssize_t nth
    int _judge "sona::judge"(
        const Remembered& memory, Py_ssize_t n, const int64_t* rows, Py_ssize_t m,
        const int64_t* near, const float* similarities, Py_ssize_t k, const Judgement& rule,
        double* levels, Py_ssize_t n_routes, const double* overall, double* contest,
        double* choice)
    cdef struct Alarm:
        double slack, threshold, limit
    int _follow "sona::follow"(double* level, double* overall, double* run, double quality,
                               double weight, double order, const Alarm& alarm)
    void _join_cell "sona::join_cell"(
        const float* unit, Py_ssize_t dim, double* sum, double* size, float* centroid)
    bint _assign "sona::assign"(
        const float* points, Py_ssize_t n, const float* centroids, Py_ssize_t k, Py_ssize_t dim,
        const Codes* codes, const uint8_t* moved, int32_t* labels, float* similarities,
        int n_threads)
    Py_ssize_t _accumulate "sona::accumulate"(
        const float* points, Py_ssize_t n, Py_ssize_t dim, const int32_t* labels,
        const double* weights, const int32_t* before, Py_ssize_t k, double* sums, double* counts)
    bint _screens_assignments "sona::screens_assignments"(Py_ssize_t k)
    bint _squared_distances "sona::squared_distances"(
        const float* points, Py_ssize_t n, Py_ssize_t dim, const float* seeds, Py_ssize_t m,
        float* out)
    bint _top_k "sona::top_k"(
        const float* rows, Py_ssize_t n, Py_ssize_t dim, const float* queries,
        Py_ssize_t n_queries, Py_ssize_t k, const Codes* codes, int64_t* indices,
        float* similarities, int n_threads)
    void _encode_rows "sona::encode_rows"(
        const float* rows, Py_ssize_t n, Py_ssize_t dim, Py_ssize_t width, int8_t* codes,
        float* scales, float* errors)

_import_array()


def capabilities() -> list[str]:
    return [capability_name(i).decode() for i in range(capability_count())]


def capability() -> str:
    return capability_name(capability_active()).decode()


def activate(name: str) -> None:
    capability_activate(capabilities().index(name))


def as_vector(x, dim, name):
    cdef Py_ssize_t n
    if sona_is_ready(x, NPY_FLOAT32, 1):
        n = sona_dim(x, 0)
        if n > 0 and (dim is None or n == <Py_ssize_t>dim):
            if active().rows.all_finite(<const float*>sona_data(x), n):
                return x
    return arrays.as_vector(x, dim, name)


def as_unit(x, dim, name, out=None):
    cdef Py_ssize_t n = dim
    cdef double length
    if not (sona_is_ready(x, NPY_FLOAT32, 1) and sona_dim(x, 0) == n > 0):
        x = arrays.as_vector(x, dim, name)
    if out is None:
        out = sona_new_like(x)
    elif not (sona_is_ready_out(out, NPY_FLOAT32, 1) and sona_dim(out, 0) == n):
        arrays.require(out, (dim,), "float32", "out", True)
    length = active().rows.unit(<const float*>sona_data(x), n, <float*>sona_data(out))
    # Squares of float32 do not overflow double: the length is finite where every value is.
    return out if length - length == 0.0 else arrays.as_vector(x, dim, name)


def as_matrix(x, dim, name):
    cdef Py_ssize_t n, width
    if sona_is_ready(x, NPY_FLOAT32, 2):
        n, width = sona_dim(x, 0), sona_dim(x, 1)
        if width > 0 and (dim is None or width == <Py_ssize_t>dim):
            if active().rows.all_finite(<const float*>sona_data(x), n * width):
                return x
    return arrays.as_matrix(x, dim, name)


cdef class LowRankAdapter:
    cdef object _weights
    cdef float* block
    cdef float* scratch
    cdef Py_ssize_t scratch_size
    cdef readonly Py_ssize_t dim
    cdef readonly Py_ssize_t rank
    cdef double _scaling

    def __init__(self, dim: int, rank: int, scaling: float = 1.0) -> None:
        arrays.require_count(dim, 1, None, "dim")
        arrays.require_count(rank, 1, None, "rank")
        if self.block != NULL:
            raise TypeError("an adapter is initialised once")
        self._weights = arrays.aligned_zeros((2 * rank, dim))
        self.dim = dim
        self.rank = rank
        self.scaling = scaling
        self.block = <float*>sona_data(self._weights)

    def __dealloc__(self):
        free(self.scratch)

    @property
    def weights(self):
        return self._weights

    @property
    def scaling(self):
        return self._scaling

    @scaling.setter
    def scaling(self, value):
        cdef double number = value
        if number - number != 0.0:
            raise NonFiniteError(f"`scaling` must be finite; got {value}")
        self._scaling = number

    @property
    def lora_A(self):
        return self._weights[:self.rank]

    @lora_A.setter
    def lora_A(self, value):
        self._weights[:self.rank] = contracts.as_factor(value, (self.rank, self.dim), "lora_A")

    @property
    def lora_B(self):
        return self._weights[self.rank:].T

    @lora_B.setter
    def lora_B(self, value):
        self._weights[self.rank:] = contracts.as_factor(value, (self.dim, self.rank), "lora_B").T

    def apply(self, x, out=None):
        cdef Py_ssize_t n = 1, bad
        cdef const float* source
        cdef float* target
        cdef void* thread
        cdef bint fresh = out is None
        if self.block == NULL:
            raise TypeError("the adapter's __init__ was not called")
        if sona_is_ready(x, NPY_FLOAT32, 1) and sona_dim(x, 0) == self.dim:
            if fresh:
                out = sona_new_like(x)
            elif not (sona_is_ready_out(out, NPY_FLOAT32, 1) and sona_dim(out, 0) == self.dim):
                arrays.require(out, x.shape, "float32", "out", True)
        else:
            if not (sona_is_ready(x, NPY_FLOAT32, 2) and sona_dim(x, 1) == self.dim):
                return self._apply_converted(x, out)
            n = sona_dim(x, 0)
            if fresh:
                out = sona_new_like(x)
            else:
                arrays.require(out, x.shape, "float32", "out", True)
        source = <const float*>sona_data(x)
        target = <float*>sona_data(out)
        if sona_straddles(source, target, n * self.dim * sizeof(float)):
            x = x.copy()
            source = <const float*>sona_data(x)
        thread = release_gil(<double>n * self.dim * self.rank)
        if fresh:
            bad = lora_apply(
                self.block, self.dim, self.rank, <float>self._scaling, source, n, target)
        else:
            bad = lora_apply_over(
                self.block, self.dim, self.rank, <float>self._scaling, source, n, target)
        retake_gil(thread)
        if bad < 0:
            raise MemoryError
        if bad < n:
            # A row was not finite; the slow check finds it again and names it.
            self._as_input(x)
        return out

    def apply_bits(self, x, format, out=None):
        cdef int which = contracts.BIT_FORMATS.index(contracts.check_bits(x, self.dim, format, out))
        if self.block == NULL:
            raise TypeError("the adapter's __init__ was not called")
        if out is None:
            out = x.copy()
        cdef Py_ssize_t n = sona_dim(x, 0) if x.ndim == 2 else 1, done
        cdef const uint16_t* source = <const uint16_t*>sona_data(x)
        cdef uint16_t* target = <uint16_t*>sona_data(out)
        if sona_straddles(source, target, n * self.dim * sizeof(uint16_t)):
            x = x.copy()
            source = <const uint16_t*>sona_data(x)
        cdef void* thread = release_gil(<double>n * self.dim * self.rank)
        done = lora_apply_bits(self.block, self.dim, self.rank, <float>self._scaling, which,
                               source, n, target)
        retake_gil(thread)
        if done < 0:
            raise MemoryError
        if done < n:
            raise NonFiniteError(f"`x` must be finite; row {done} is not")
        return out

    cdef _as_input(self, x):
        if getattr(x, "ndim", None) == 2 or (
                isinstance(x, (list, tuple)) and x and isinstance(x[0], (list, tuple))):
            return arrays.as_matrix(x, self.dim, "x")
        return arrays.as_vector(x, self.dim, "x")

    cdef _apply_converted(self, x, out):
        return self.apply(self._as_input(x), out)

    cdef Adapter native(self):
        return Adapter(self.block, self.dim, self.rank, <float>self._scaling)

    cdef float* reserve(self, Py_ssize_t size) except NULL:
        if size > self.scratch_size:
            free(self.scratch)
            self.scratch_size = 0
            self.scratch = <float*>malloc(size * sizeof(float))
            if self.scratch == NULL:
                raise MemoryError
            self.scratch_size = size
        return self.scratch


# The functions of each tensor library, by its type of tensor; 0 where it does not take part.
cdef dict _exchanges = {}


cdef size_t _exchange_of(kind) except? 0:
    capsule = getattr(kind, "__dlpack_c_exchange_api__", None)
    cdef const Exchange* exchange = NULL
    if capsule is not None:
        exchange = <const Exchange*>PyCapsule_GetPointer(capsule, "dlpack_exchange_api")
        if exchange.major != 1 or exchange.look == NULL:
            exchange = NULL
    _exchanges[kind] = <size_t>exchange
    return <size_t>exchange


@cython.binding(True)
def adapt_tensor(x, adapters):
    cdef LowRankAdapter adapter
    cdef tuple chain = adapters
    cdef TensorView source
    cdef OwnedTensor* made = NULL
    cdef void* taken = NULL
    cdef char* y
    cdef const char* rows
    cdef Py_ssize_t n, done
    cdef int format
    cdef void* thread
    cdef const Exchange* exchange
    known = _exchanges.get(type(x))
    exchange = <const Exchange*>(_exchange_of(type(x)) if known is None else <size_t>known)
    if exchange == NULL or not chain or getattr(x, "requires_grad", False):
        return None
    try:
        exchange.look(<void*>x, &source)
    except (BufferError, RuntimeError, NotImplementedError):
        return None  # sparse, or with numbers that are not as they lie in memory
    adapter = chain[0]
    format = takes(source, adapter.dim, &n)
    if format < 0:
        return None
    made = owned_like(source, n * adapter.dim)
    if made == NULL:
        raise MemoryError
    y = <char*>made.view.data
    exchange.give(made, &taken)
    out = <object><PyObject*>taken
    Py_DECREF(out)  # the cast took a reference of its own
    rows = <const char*>source.data + source.byte_offset
    for adapter in chain:
        if adapter.dim != (<LowRankAdapter>chain[0]).dim:
            raise ShapeError(f"`adapters` must be of one dim; got {adapter.dim}")
        thread = release_gil(<double>n * adapter.dim * adapter.rank)
        if format == 0:
            done = lora_apply(adapter.block, adapter.dim, adapter.rank, <float>adapter._scaling,
                              <const float*>rows, n, <float*>y)
        else:
            done = lora_apply_bits(adapter.block, adapter.dim, adapter.rank,
                                   <float>adapter._scaling, format - 1, <const uint16_t*>rows, n,
                                   <uint16_t*>y)
        retake_gil(thread)
        if done < 0:
            raise MemoryError
        if done < n:
            raise NonFiniteError(f"`x` must be finite; row {done} is not")
        rows = y
    return out


def decision_step(adapter, x, centroids, values, target, indices, similarities, temperature, rate,
                  decay, max_norm, damping):
    cdef LowRankAdapter own = adapter
    cdef Py_ssize_t n, k
    cdef float* scratch
    cdef DecisionStep step
    cdef double expected
    if not (sona_is_ready(x, NPY_FLOAT32, 1) and sona_dim(x, 0) == own.dim
            and sona_is_ready(centroids, NPY_FLOAT32, 2) and sona_dim(centroids, 1) == own.dim
            and sona_is_ready(values, NPY_FLOAT32, 1)
            and sona_dim(values, 0) == sona_dim(centroids, 0)
            and sona_is_ready_out(indices, NPY_INT64, 1)
            and 0 < sona_dim(indices, 0) <= sona_dim(centroids, 0)
            and sona_is_ready_out(similarities, NPY_FLOAT32, 1)
            and sona_dim(similarities, 0) == sona_dim(indices, 0)
            and active().rows.all_finite(<const float*>sona_data(x), own.dim)):
        contracts.check_step(own.dim, x, centroids, values, indices, similarities)
    step.target, step.temperature, step.rate = target, temperature, rate
    step.decay, step.max_norm, step.damping = decay, max_norm, damping
    if not (0.0 <= step.target <= 1.0 and step.temperature > 0.0 and step.rate >= 0.0
            and 0.0 <= step.decay <= 1.0 and step.max_norm > 0.0
            and 0.0 < step.damping < INFINITY):
        contracts.check_rule(target, temperature, rate, decay, max_norm, damping)
    n = sona_dim(centroids, 0)
    k = sona_dim(indices, 0)
    # The GIL keeps a second step out; without one this does.
    with cython.critical_section(own):
        scratch = own.reserve(decision_scratch(own.dim, own.rank, k))
        expected = _decision_step(
            own.native(), <const float*>sona_data(x), <const float*>sona_data(centroids), n,
            <const float*>sona_data(values), k, step, <int64_t*>sona_data(indices),
            <float*>sona_data(similarities), scratch)
    return expected


def outcome_step(lower, upper, x, centroids, values, target, gate, similarities, k, temperature,
                 rate, decay, max_norm, damping):
    cdef LowRankAdapter below = lower, own = upper
    cdef Py_ssize_t n, seen = k
    cdef float* scratch
    cdef DecisionStep step
    cdef double expected
    if not (below.dim == own.dim and sona_is_ready(x, NPY_FLOAT32, 1)
            and sona_dim(x, 0) == own.dim
            and sona_is_ready(centroids, NPY_FLOAT32, 2) and sona_dim(centroids, 1) == own.dim
            and sona_is_ready(values, NPY_FLOAT32, 1)
            and sona_dim(values, 0) == sona_dim(centroids, 0)
            and sona_is_ready_out(gate, NPY_FLOAT64, 1) and sona_dim(gate, 0) == 10
            and sona_is_ready_out(similarities, NPY_FLOAT32, 1)
            and sona_dim(similarities, 0) == sona_dim(centroids, 0)
            and 0 < seen <= sona_dim(centroids, 0)
            and active().rows.all_finite(<const float*>sona_data(x), own.dim)):
        contracts.check_outcome(below.dim, own.dim, x, centroids, values, gate, similarities, k)
    step.target, step.temperature, step.rate = target, temperature, rate
    step.decay, step.max_norm, step.damping = decay, max_norm, damping
    if not (0.0 <= step.target <= 1.0 and step.temperature > 0.0 and step.rate >= 0.0
            and 0.0 <= step.decay <= 1.0 and step.max_norm > 0.0
            and 0.0 < step.damping < INFINITY):
        contracts.check_rule(target, temperature, rate, decay, max_norm, damping)
    n = sona_dim(centroids, 0)
    with cython.critical_section(own):
        scratch = own.reserve(outcome_scratch(own.dim, own.rank, n, seen))
        expected = _outcome_step(
            below.native(), own.native(), <const float*>sona_data(x),
            <const float*>sona_data(centroids), n, <const float*>sona_data(values), seen, step,
            <double*>sona_data(gate), <float*>sona_data(similarities), scratch)
    return expected


def gate_trust(gate):
    if not (sona_is_ready(gate, NPY_FLOAT64, 1) and sona_dim(gate, 0) == 10):
        contracts.check_gate(gate)
    return _gate_trust(<const double*>sona_data(gate))


def gate_observe(gate, expected, target):
    if not (sona_is_ready_out(gate, NPY_FLOAT64, 1) and sona_dim(gate, 0) == 10):
        contracts.check_gate(gate)
    _gate_observe(<double*>sona_data(gate), expected, target)


def similarities_to(rows, x, out):
    if not (sona_is_ready(rows, NPY_FLOAT32, 2) and sona_is_ready(x, NPY_FLOAT32, 1)
            and sona_dim(x, 0) == sona_dim(rows, 1) and sona_is_ready_out(out, NPY_FLOAT32, 1)
            and sona_dim(out, 0) == sona_dim(rows, 0)):
        contracts.check_similarities_to(rows, x, out)
    active().rows.dots(<const float*>sona_data(rows), sona_dim(rows, 0), sona_dim(rows, 1),
                       <const float*>sona_data(x), <float*>sona_data(out))


def expected_values(outcomes, out, blind, floor, strength):
    if not (sona_is_ready(outcomes, NPY_FLOAT64, 2) and sona_dim(outcomes, 1) == 3
            and sona_is_ready_out(out, NPY_FLOAT32, 1)
            and sona_dim(out, 0) <= sona_dim(outcomes, 0)):
        contracts.check_expected_values(outcomes, out)
    _expected_values(<const double*>sona_data(outcomes), sona_dim(out, 0), blind, floor, strength,
                     <float*>sona_data(out))


def place_outcome(similarities, unit, quality, accepted, outcomes, sums, sizes, centroids, same,
                  room, by_route):
    cdef Py_ssize_t n, cell
    check_cells(unit, outcomes, sums, sizes, centroids)
    if not (sona_is_ready(similarities, NPY_FLOAT32, 1)
            and 0 < sona_dim(similarities, 0) < sona_dim(outcomes, 0)):
        contracts.check_similarities(similarities, outcomes)
    n = sona_dim(similarities, 0)
    cell = _choose_cell(<const float*>sona_data(similarities), n,
                        <const double*>sona_data(outcomes), accepted, same, room, by_route)
    if cell >= 0:
        count_in(cell, unit, quality, accepted, outcomes, sums, sizes, centroids)
    return cell


def count_outcome(cell, unit, quality, accepted, outcomes, sums, sizes, centroids):
    cdef Py_ssize_t place = cell
    check_cells(unit, outcomes, sums, sizes, centroids)
    if not (0 <= place < sona_dim(outcomes, 0) - accepted):
        contracts.check_cell(cell, accepted, outcomes)
    count_in(place, unit, quality, accepted, outcomes, sums, sizes, centroids)


cdef check_cells(unit, outcomes, sums, sizes, centroids):
    if not (sona_is_ready_out(outcomes, NPY_FLOAT64, 2) and sona_dim(outcomes, 1) == 3
            and sona_is_ready_out(sums, NPY_FLOAT64, 2) and sona_is_ready_out(sizes, NPY_FLOAT64, 1)
            and sona_is_ready_out(centroids, NPY_FLOAT32, 2) and sona_is_ready(unit, NPY_FLOAT32, 1)
            and sona_dim(outcomes, 0) == sona_dim(sums, 0) + 1
            and sona_dim(sizes, 0) == sona_dim(sums, 0)
            and sona_dim(centroids, 0) == sona_dim(sums, 0)
            and sona_dim(centroids, 1) == sona_dim(sums, 1)
            and sona_dim(unit, 0) == sona_dim(sums, 1)):
        contracts.check_cells(unit, outcomes, sums, sizes, centroids)


cdef count_in(Py_ssize_t cell, unit, double quality, bint accepted, outcomes, sums, sizes,
              centroids):
    cdef Py_ssize_t dim = sona_dim(unit, 0)
    _count_outcome(quality, <double*>sona_data(outcomes) + 3 * cell)
    if accepted:
        _join_cell(<const float*>sona_data(unit), dim, <double*>sona_data(sums) + cell * dim,
                   <double*>sona_data(sizes) + cell, <float*>sona_data(centroids) + cell * dim)


def settle(sums, centroids):
    cdef Py_ssize_t i, dim
    if not (sona_is_ready(sums, NPY_FLOAT64, 2) and sona_is_ready_out(centroids, NPY_FLOAT32, 2)
            and sona_dim(sums, 0) == sona_dim(centroids, 0)
            and sona_dim(sums, 1) == sona_dim(centroids, 1)):
        contracts.check_settle(sums, centroids)
    dim = sona_dim(sums, 1)
    for i in range(sona_dim(sums, 0)):
        active().bank.settle(<const double*>sona_data(sums) + i * dim, dim,
                             <float*>sona_data(centroids) + i * dim)


def store_row(rows, row, x):
    cdef Py_ssize_t place = row, dim
    if not (sona_is_ready_out(rows, NPY_FLOAT32, 2) and sona_is_ready(x, NPY_FLOAT32, 1)
            and sona_dim(x, 0) == sona_dim(rows, 1) and 0 <= place < sona_dim(rows, 0)):
        contracts.check_store_row(rows, row, x)
    dim = sona_dim(rows, 1)
    memcpy(<float*>sona_data(rows) + place * dim, sona_data(x), dim * sizeof(float))


def follow(levels, overall, runs, route, quality, weight, order, slack, threshold, limit):
    cdef Py_ssize_t place = route
    cdef Alarm alarm
    if not (sona_is_ready_out(levels, NPY_FLOAT64, 2) and sona_dim(levels, 1) == 6
            and sona_is_ready_out(overall, NPY_FLOAT64, 1) and sona_dim(overall, 0) == 3
            and sona_is_ready_out(runs, NPY_FLOAT64, 2) and sona_dim(runs, 1) == 8
            and 0 <= place < sona_dim(levels, 0) and place < sona_dim(runs, 0)):
        contracts.check_follow(levels, overall, runs, route)
    alarm.slack, alarm.threshold, alarm.limit = slack, threshold, limit
    return _follow(<double*>sona_data(levels) + 6 * place, <double*>sona_data(overall),
                   <double*>sona_data(runs) + 8 * place, quality, weight, order, alarm)


def put_outcome(rows, codes, whole, real, row, unit, route, order, quality, weight, length):
    cdef Py_ssize_t place = row, dim, room, width
    cdef int64_t* numbers
    cdef double* values
    code_array, scales, errors = codes.codes, codes.scales, codes.errors
    if not (sona_is_ready_out(rows, NPY_FLOAT32, 2) and sona_is_ready(unit, NPY_FLOAT32, 1)
            and sona_dim(unit, 0) == sona_dim(rows, 1) and 0 <= place < sona_dim(rows, 0)
            and sona_is_ready_out(whole, NPY_INT64, 2) and sona_dim(whole, 0) == 2
            and sona_is_ready_out(real, NPY_FLOAT64, 2) and sona_dim(real, 0) == 4
            and place < sona_dim(whole, 1) and sona_dim(whole, 1) == sona_dim(real, 1)
            and sona_is_ready_out(code_array, NPY_INT8, 2)
            and sona_dim(code_array, 0) == sona_dim(rows, 0)
            and sona_dim(code_array, 1) == (sona_dim(rows, 1) + 63) // 64 * 64):
        contracts.check_put_outcome(rows, codes, whole, real, row, unit)
    dim, room, width = sona_dim(rows, 1), sona_dim(whole, 1), sona_dim(code_array, 1)
    memcpy(<float*>sona_data(rows) + place * dim, sona_data(unit), dim * sizeof(float))
    _encode_rows(<const float*>sona_data(unit), 1, dim, width,
                 <int8_t*>sona_data(code_array) + place * width,
                 <float*>sona_data(scales) + place, <float*>sona_data(errors) + place)
    numbers = <int64_t*>sona_data(whole) + place
    numbers[0], numbers[room] = route, order
    values = <double*>sona_data(real) + place
    values[0], values[room], values[2 * room], values[3 * room] = quality, weight, length, NAN


cdef class CellModel:
    cdef Model native
    cdef Codes codes
    cdef tuple kept  # what the pointers point to

    def __init__(self, rows, starts, table, variance, level, doubted, codes=None):
        contracts.check_model(rows, starts, table, variance, level, doubted, codes)
        if self.kept is not None:
            raise TypeError("a model is initialised once")
        self.native.rows, self.native.dim = <const float*>sona_data(rows), sona_dim(rows, 1)
        self.native.n_cells, self.native.n_routes = sona_dim(table, 0), sona_dim(table, 1)
        self.native.starts = <const int64_t*>sona_data(starts)
        self.native.n_views, self.native.n_doubted = sona_dim(starts, 0), doubted
        self.native.table = <const float*>sona_data(table)
        self.native.variance = <const float*>sona_data(variance)
        self.native.level = <const double*>sona_data(level)
        if codes is not None:
            self.codes = borrow_codes(codes)
            self.native.codes = &self.codes
        self.kept = (rows, starts, table, variance, level, codes)

    def means(self, x):
        if self.kept is None:
            raise TypeError("the model's __init__ was not called")
        if not (sona_is_ready(x, NPY_FLOAT32, 1) and sona_dim(x, 0) == self.native.dim):
            contracts.check_query(x, self.native.dim)
        mean = sona_new(True, 0, self.native.n_routes, NPY_FLOAT64)
        doubt = sona_new(True, 0, self.native.n_routes, NPY_FLOAT64)
        if not _model_means(self.native, <const float*>sona_data(x), <double*>sona_data(mean),
                            <double*>sona_data(doubt)):
            raise MemoryError
        return mean, doubt


cdef Remembered borrow_columns(whole, real):
    cdef Remembered memory
    cdef Py_ssize_t room = sona_dim(whole, 1)
    memory.route = <const int64_t*>sona_data(whole)
    memory.order = memory.route + room
    memory.quality = <const double*>sona_data(real)
    memory.weight, memory.fitted = memory.quality + room, memory.quality + 3 * room
    return memory


cdef bint are_columns(whole, real):
    return (sona_is_ready(whole, NPY_INT64, 2) and sona_dim(whole, 0) == 2
            and sona_is_ready(real, NPY_FLOAT64, 2) and sona_dim(real, 0) == 4
            and sona_dim(whole, 1) == sona_dim(real, 1))


cdef bint are_rows(rows, Py_ssize_t n, Py_ssize_t room):
    cdef const int64_t* row = <const int64_t*>sona_data(rows)
    cdef Py_ssize_t i
    for i in range(n):
        if not 0 <= row[i] < room:
            return False
    return True


cdef enum:
    ROOM = 512  # numbers that a look takes for 64 neighbours and some 60 routes


cdef class Outlook:
    cdef NativeOutlook native
    cdef tuple kept  # what the pointers point to

    def __init__(self, model, rows, codes, n, whole, real, levels, overall, learned, neighbours,
                 width, nth, fresh, residual_prior, trust, low, memory_prior, edge):
        cdef CellModel cells = model
        cdef Py_ssize_t used = n, most = neighbours, near = nth, room
        if self.kept is not None:
            raise TypeError("an outlook is initialised once")
        if cells is not None and cells.kept is None:
            raise TypeError("the model's __init__ was not called")
        # Made anew after each outcome: a look at each argument, and words only for what is wrong.
        code_array = codes.codes
        if not (sona_is_ready(rows, NPY_FLOAT32, 2) and are_columns(whole, real)
                and 0 <= used <= sona_dim(rows, 0) and used <= sona_dim(whole, 1)
                and sona_is_ready(code_array, NPY_INT8, 2)
                and sona_dim(code_array, 1) == (sona_dim(rows, 1) + 63) // 64 * 64
                and sona_dim(code_array, 0) == sona_dim(rows, 0)
                and sona_is_ready(levels, NPY_FLOAT64, 2) and sona_dim(levels, 1) == 6
                and sona_is_ready(overall, NPY_FLOAT64, 1) and sona_dim(overall, 0) == 3
                and (cells is None or (cells.native.dim == sona_dim(rows, 1)
                                       and cells.native.n_routes <= sona_dim(levels, 0)))
                and most > 0 and near > 0):
            contracts.check_outlook(
                None if cells is None else (cells.native.dim, cells.native.n_routes), rows, codes,
                n, whole, real, levels, overall, neighbours, nth)
        if cells is not None:
            self.native.model = &cells.native
        self.native.rows, self.native.codes = <const float*>sona_data(rows), borrow_codes(codes)
        self.native.n, self.native.dim, self.native.k = used, sona_dim(rows, 1), min(most, used)
        self.native.memory = borrow_columns(whole, real)
        self.native.levels = <const double*>sona_data(levels)
        self.native.overall = <const double*>sona_data(overall)
        self.native.n_routes = sona_dim(levels, 0)
        rule = &self.native.rule
        rule.learned, rule.width, rule.nth, rule.fresh = learned, width, near, fresh
        rule.residual_prior, rule.trust, rule.low = residual_prior, trust, low
        rule.memory_prior, rule.edge = memory_prior, edge
        self.kept = (model, rows, codes, whole, real, levels, overall)

    def expect(self, x, ask):
        cdef double room[ROOM]
        cdef double* means
        cdef double* deviations
        cdef Found found
        cdef int how
        cdef bint done
        cdef void* thread
        cdef Py_ssize_t n_routes = self.native.n_routes, i
        cdef Py_ssize_t size = 2 * n_routes + found_scratch(self.native)
        if self.kept is None:
            raise TypeError("the outlook's __init__ was not called")
        if not (sona_is_ready(x, NPY_FLOAT32, 1) and sona_dim(x, 0) == self.native.dim):
            contracts.check_query(x, self.native.dim)
        # On the stack, unless it is much: an array would be made by code that is seldom at hand.
        means = room
        if size > ROOM:
            means = <double*>malloc(size * sizeof(double))
            if means == NULL:
                raise MemoryError
        try:
            deviations = means + n_routes
            found = found_in(self.native, deviations + n_routes)
            thread = release_gil(<double>self.native.n * self.native.dim)
            done = look(self.native, <const float*>sona_data(x), found)
            retake_gil(thread)
            if not done:
                raise MemoryError
            how = conclude(self.native, found, means, deviations)
            if how == NOT_ASKED:
                rows = sona_new(True, 0, self.native.k, NPY_INT64)
                memcpy(sona_data(rows), found.rows, self.native.k * sizeof(int64_t))
                ask(rows)
                how = conclude(self.native, found, means, deviations)
            if how == NO_MEMORY:
                raise MemoryError
            if how == UNKNOWN_ROUTE:
                whole = self.kept[3]
                contracts.check_routes(whole[0, :self.native.n], n_routes)
            if how == NOT_ASKED:
                return None
            return [means[i] for i in range(n_routes)], [deviations[i] for i in range(n_routes)]
        finally:
            if size > ROOM:
                free(means)


cdef bint are_neighbours(rows, near, similarities, whole, real):
    return (sona_is_ready(near, NPY_INT64, 2) and sona_dim(near, 1) > 0
            and sona_is_ready(similarities, NPY_FLOAT32, 2)
            and sona_dim(similarities, 0) == sona_dim(near, 0)
            and sona_dim(similarities, 1) == sona_dim(near, 1)
            and sona_is_ready(rows, NPY_INT64, 1) and sona_dim(rows, 0) == sona_dim(near, 0)
            and are_columns(whole, real) and are_rows(rows, sona_dim(rows, 0), sona_dim(whole, 1))
            and are_rows(near, sona_dim(near, 0) * sona_dim(near, 1), sona_dim(whole, 1)))


def precedents(rows, before, near, similarities, whole, real, nth, width):
    cdef Py_ssize_t m, k, others = nth
    if not (are_neighbours(rows, near, similarities, whole, real) and others > 0
            and sona_is_ready(before, NPY_INT64, 1) and sona_dim(before, 0) == sona_dim(near, 0)):
        contracts.check_precedents(rows, before, near, similarities, whole, real, nth)
    m, k = sona_dim(near, 0), sona_dim(near, 1)
    mass = sona_new(True, 0, m, NPY_FLOAT64)
    mean = sona_new(True, 0, m, NPY_FLOAT64)
    _precedents(
        borrow_columns(whole, real), <const int64_t*>sona_data(rows),
        <const int64_t*>sona_data(before), m, <const int64_t*>sona_data(near),
        <const float*>sona_data(similarities), k, others, width, <double*>sona_data(mass),
        <double*>sona_data(mean))
    return mass, mean


def judge(rows, near, similarities, whole, real, n, levels, overall, contest, choice, nth, width,
          memory_prior, choice_prior, fade, said_fade):
    cdef Judgement rule
    cdef Py_ssize_t used = n
    cdef int how
    rule.nth = nth
    if not (are_neighbours(rows, near, similarities, whole, real) and rule.nth > 0
            and 0 <= used <= sona_dim(whole, 1)
            and sona_is_ready_out(levels, NPY_FLOAT64, 2) and sona_dim(levels, 1) == 6
            and sona_is_ready(overall, NPY_FLOAT64, 1) and sona_dim(overall, 0) == 3
            and sona_is_ready_out(contest, NPY_FLOAT64, 1) and sona_dim(contest, 0) == 3
            and sona_is_ready_out(choice, NPY_FLOAT64, 1) and sona_dim(choice, 0) == 2):
        contracts.check_judge(
            rows, near, similarities, whole, real, n, levels, overall, contest, choice, nth)
    rule.width, rule.memory_prior, rule.choice_prior = width, memory_prior, choice_prior
    rule.fade, rule.said_fade = fade, said_fade
    how = _judge(
        borrow_columns(whole, real), used, <const int64_t*>sona_data(rows), sona_dim(near, 0),
        <const int64_t*>sona_data(near), <const float*>sona_data(similarities), sona_dim(near, 1),
        rule, <double*>sona_data(levels), sona_dim(levels, 0), <const double*>sona_data(overall),
        <double*>sona_data(contest), <double*>sona_data(choice))
    if how == NO_MEMORY:
        raise MemoryError
    if how:
        contracts.check_judged(rows, whole, real, n, len(levels))


def same_vector(x, y):
    cdef const float* a
    cdef const float* b
    cdef Py_ssize_t i
    if x is y:
        return True
    if not (sona_is_ready(x, NPY_FLOAT32, 1) and sona_is_ready(y, NPY_FLOAT32, 1)):
        contracts.check_same_vector(x, y)
    if sona_dim(x, 0) != sona_dim(y, 0):
        return False
    a, b = <const float*>sona_data(x), <const float*>sona_data(y)
    for i in range(sona_dim(x, 0)):
        if a[i] != b[i]:
            return False
    return True


def unit_rows(x):
    cdef Py_ssize_t n = 1, dim, i
    if sona_is_ready(x, NPY_FLOAT32, 1):
        dim = sona_dim(x, 0)
    else:
        if not sona_is_ready(x, NPY_FLOAT32, 2):
            contracts.check_unit_rows(x)
        n, dim = sona_dim(x, 0), sona_dim(x, 1)
    cdef object out = sona_new_like(x)
    cdef const float* row = <const float*>sona_data(x)
    cdef float* unit = <float*>sona_data(out)
    cdef const RowKernels* rows = active().rows
    cdef void* thread = release_gil(<double>n * dim)
    for i in range(n):
        rows.unit(row + i * dim, dim, unit + i * dim)
    retake_gil(thread)
    return out


cdef Codes borrow_codes(codes):
    cdef Codes room
    code_array, scales, errors = codes.codes, codes.scales, codes.errors
    room.codes = <const int8_t*>sona_data(code_array)
    room.scales = <const float*>sona_data(scales)
    room.errors = <const float*>sona_data(errors)
    room.width = sona_dim(code_array, 1)
    return room


def assign(points, centroids, labels, similarities, n_threads=1, codes=None, moved=None):
    contracts.check_assign(points, centroids, labels, similarities, n_threads, codes, moved)
    cdef Py_ssize_t n = sona_dim(points, 0), k = sona_dim(centroids, 0), dim = sona_dim(points, 1)
    cdef const float* p = <const float*>sona_data(points)
    cdef const float* c = <const float*>sona_data(centroids)
    cdef int32_t* label = <int32_t*>sona_data(labels)
    cdef float* similarity = NULL
    cdef int threads = n_threads
    cdef Codes room
    cdef const Codes* given = NULL
    cdef const uint8_t* flags = NULL
    cdef bint done
    if moved is not None:
        flags = <const uint8_t*>sona_data(moved)
    if similarities is not None:
        similarity = <float*>sona_data(similarities)
    if codes is not None:
        room = borrow_codes(codes)
        given = &room
    with nogil:
        done = _assign(p, n, c, k, dim, given, flags, label, similarity, threads)
    if not done:
        raise MemoryError


def accumulate(points, labels, weights, sums, counts, before=None):
    contracts.check_accumulate(points, labels, weights, sums, counts, before)
    cdef Py_ssize_t n = sona_dim(points, 0), dim = sona_dim(points, 1), k = sona_dim(sums, 0), bad
    cdef const float* p = <const float*>sona_data(points)
    cdef const int32_t* label = <const int32_t*>sona_data(labels)
    cdef const int32_t* old = NULL
    cdef const double* weight = NULL
    cdef double* sum_ = <double*>sona_data(sums)
    cdef double* count = <double*>sona_data(counts)
    if weights is not None:
        weight = <const double*>sona_data(weights)
    if before is not None:
        old = <const int32_t*>sona_data(before)
    with nogil:
        bad = _accumulate(p, n, dim, label, weight, old, k, sum_, count)
    if bad < n:
        contracts.refuse_label(labels, before, bad, k)


def screens_assignments(n_clusters):
    return _screens_assignments(n_clusters)


def squared_distances(points, seeds):
    contracts.check_squared_distances(points, seeds)
    cdef Py_ssize_t n = sona_dim(points, 0), dim = sona_dim(points, 1), m = sona_dim(seeds, 0)
    cdef object out = sona_new(False, m, n, NPY_FLOAT32)
    cdef const float* p = <const float*>sona_data(points)
    cdef const float* s = <const float*>sona_data(seeds)
    cdef float* o = <float*>sona_data(out)
    cdef bint done
    with nogil:
        done = _squared_distances(p, n, dim, s, m, o)
    if not done:
        raise MemoryError
    return out


def encode_rows(rows, codes, start):
    contracts.check_encode_rows(rows, codes, start)
    cdef Py_ssize_t n = sona_dim(rows, 0), dim = sona_dim(rows, 1), first = start
    cdef Py_ssize_t width = sona_dim(codes.codes, 1)
    cdef const float* row = <const float*>sona_data(rows)
    cdef int8_t* code = <int8_t*>sona_data(codes.codes) + first * width
    cdef float* scale = <float*>sona_data(codes.scales) + first
    cdef float* error = <float*>sona_data(codes.errors) + first
    cdef void* thread = release_gil(<double>n * dim)
    _encode_rows(row, n, dim, width, code, scale, error)
    retake_gil(thread)


def top_k(rows, n, queries, k, n_threads=1, codes=None):
    cdef Py_ssize_t used = n, dim, m = 1, best = k
    cdef int threads = n_threads
    cdef bint single = sona_is_ready(queries, NPY_FLOAT32, 1), done
    cdef Codes room
    cdef const Codes* given = NULL
    if not (sona_is_ready(rows, NPY_FLOAT32, 2) and 0 < used <= sona_dim(rows, 0)
            and (single or sona_is_ready(queries, NPY_FLOAT32, 2))
            and sona_dim(queries, 0 if single else 1) == sona_dim(rows, 1)
            and 0 < best <= used and threads > 0):
        contracts.check_top_k(rows, n, queries, k, n_threads, codes)
    dim = sona_dim(rows, 1)
    if not single:
        m = sona_dim(queries, 0)
    if codes is not None:
        code_array = codes.codes
        if not (sona_is_ready(code_array, NPY_INT8, 2)
                and sona_dim(code_array, 1) == (dim + 63) // 64 * 64
                and sona_dim(code_array, 0) == sona_dim(rows, 0)):
            contracts.check_top_k(rows, n, queries, k, n_threads, codes)
        room = borrow_codes(codes)
        given = &room
    indices = sona_new(single, m, best, NPY_INT64)
    similarities = sona_new(single, m, best, NPY_FLOAT32)
    cdef const float* row = <const float*>sona_data(rows)
    cdef const float* query = <const float*>sona_data(queries)
    cdef int64_t* index = <int64_t*>sona_data(indices)
    cdef float* similarity = <float*>sona_data(similarities)
    cdef void* thread = release_gil(<double>used * dim * m)
    done = _top_k(row, used, dim, query, m, best, given, index, similarity, threads)
    retake_gil(thread)
    if not done:
        raise MemoryError
    return indices, similarities
