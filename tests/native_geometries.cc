// Calls the native kernels as XLA does, on random geometries, right ones and wrong ones, and with
// too little memory. Built with sanitizers by test_ops_native_safety.py; each buffer is as large as
// its shape says. Takes the number of geometries; exits with 1, and says why, if one goes wrong.

#include <algorithm>
#include <array>
#include <atomic>
#include <climits>
#include <cmath>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <new>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "xla/ffi/api/c_api.h"

extern "C" {
XLA_FFI_Handler jaxnets_conv, jaxnets_conv_ending, jaxnets_conv_input_gradient, jaxnets_conv_kernel_gradient;
}

using Index = int64_t;
using Numbers = std::vector<Index>;  // of a geometry, in the order of `Geometry::numbers`
enum : Index {
  kBatch, kGroups, kIns, kOuts,
  kIn, kOut = 7, kWindow = 10, kStride = 13, kBefore = 16, kDilation = 19
};

// Memory: `allocations_left` of them succeed, then one fails, or all do if `for_good`. A terabyte
// always fails: the sanitizer would end the process.
static std::atomic<long> allocations_left{LONG_MAX};
static std::atomic<bool> for_good{false};

void* operator new(size_t size) {
  const long left = allocations_left.fetch_sub(1);
  const bool fails = (for_good ? left <= 0 : left == 0) || size > size_t{1} << 40;
  if (void* p = fails ? nullptr : std::malloc(size)) return p;
  throw std::bad_alloc();
}
void operator delete(void* p) noexcept { std::free(p); }
void operator delete(void* p, size_t) noexcept { std::free(p); }

// Threads: what is scheduled runs on others, if `in_turn` before the caller goes on, so that the
// caller finds nothing left to do. Allocates nothing.
struct Pool {
  static constexpr size_t kRoom = 256;
  std::array<XLA_FFI_ThreadPool_Schedule_Args, kRoom> tasks;
  size_t begun = 0, scheduled = 0, ended = 0;
  bool in_turn = false, closed = false;
  std::mutex mutex;
  std::condition_variable change;
  std::array<std::thread, 3> threads;

  Pool() {
    for (auto& thread : threads) thread = std::thread([this] { Work(); });
  }
  ~Pool() {
    { std::lock_guard<std::mutex> lock(mutex); closed = true; }
    change.notify_all();
    for (auto& thread : threads) thread.join();
  }
  void Work() {
    std::unique_lock<std::mutex> lock(mutex);
    for (;;) {
      change.wait(lock, [this] { return closed || begun < scheduled; });
      if (begun == scheduled) return;
      const auto task = tasks[begun++ % kRoom];
      lock.unlock();
      task.task(task.data);
      lock.lock();
      ++ended;
      change.notify_all();
    }
  }
  void Schedule(const XLA_FFI_ThreadPool_Schedule_Args& task) {
    std::unique_lock<std::mutex> lock(mutex);
    change.wait(lock, [this] { return scheduled - ended < kRoom; });
    tasks[scheduled++ % kRoom] = task;
    change.notify_all();
    if (in_turn) change.wait(lock, [this] { return ended == scheduled; });
  }
};
static Pool* pool;

struct XLA_FFI_Error {
  XLA_FFI_Error_Code code;
  char message[300];
};
static XLA_FFI_Error last;  // of the one call at a time

struct Array {
  std::vector<Index> sizes;
  XLA_FFI_DataType type = XLA_FFI_DataType_F32;
  float* data = nullptr;
};

constexpr XLA_FFI_DataType kFloats = XLA_FFI_DataType_F32;
static float low = -0.7f, high = 0.9f;  // limits of an ending

// Code of what the handler returns; its message is then in `last`. The last array is the result; an
// ending has three more than a convolution.
XLA_FFI_Error_Code Call(XLA_FFI_Handler* handler, const std::vector<Array>& arrays,
                        const Numbers& n) {
  XLA_FFI_Api api = {};
  api.struct_size = XLA_FFI_Api_STRUCT_SIZE;
  api.XLA_FFI_Error_Create = [](XLA_FFI_Error_Create_Args* args) {
    last.code = args->errc;
    std::snprintf(last.message, sizeof(last.message), "%s", args->message);
    return &last;
  };
  api.XLA_FFI_ThreadPool_Schedule = [](XLA_FFI_ThreadPool_Schedule_Args* args) {
    pool->Schedule(*args);
    return static_cast<XLA_FFI_Error*>(nullptr);
  };
  api.XLA_FFI_ThreadPool_NumThreads = [](XLA_FFI_ThreadPool_NumThreads_Args* args) {
    *args->num_threads = static_cast<Index>(pool->threads.size());
    return static_cast<XLA_FFI_Error*>(nullptr);
  };
  const Index count = static_cast<Index>(arrays.size()) - 1, more = count > 2 ? 2 : 0;
  std::array<XLA_FFI_Buffer, 6> buffers = {};
  for (int i = 0; i <= count; ++i) {
    const Array& a = arrays[i];
    buffers[i] = {XLA_FFI_Buffer_STRUCT_SIZE, nullptr, a.type, a.data,
                  static_cast<Index>(a.sizes.size()), const_cast<Index*>(a.sizes.data())};
  }
  void *args[5], *rets[1] = {&buffers[count]};
  XLA_FFI_ArgType arg_types[5];
  for (int i = 0; i < count; ++i) args[i] = &buffers[i], arg_types[i] = XLA_FFI_ArgType_BUFFER;
  XLA_FFI_RetType ret_types[1] = {XLA_FFI_RetType_BUFFER};
  XLA_FFI_Array numbers = {XLA_FFI_DataType_S64, n.size(), const_cast<Index*>(n.data())};
  XLA_FFI_Scalar limits[2] = {{XLA_FFI_DataType_F32, &high}, {XLA_FFI_DataType_F32, &low}};
  XLA_FFI_AttrType attr_types[3] = {XLA_FFI_AttrType_ARRAY, XLA_FFI_AttrType_SCALAR,
                                    XLA_FFI_AttrType_SCALAR};
  XLA_FFI_ByteSpan spans[3] = {{"geometry", 8}, {"high", 4}, {"low", 3}};
  XLA_FFI_ByteSpan* names[3] = {&spans[0], &spans[1], &spans[2]};
  void* attrs[3] = {&numbers, &limits[0], &limits[1]};
  XLA_FFI_CallFrame frame = {};
  frame.struct_size = XLA_FFI_CallFrame_STRUCT_SIZE;
  frame.api = &api;
  frame.stage = XLA_FFI_ExecutionStage_EXECUTE;
  frame.args = {XLA_FFI_Args_STRUCT_SIZE, nullptr, count, arg_types, args};
  frame.rets = {XLA_FFI_Rets_STRUCT_SIZE, nullptr, 1, ret_types, rets};
  frame.attrs = {XLA_FFI_Attrs_STRUCT_SIZE, nullptr, 1 + more, attr_types, names, attrs};
  last = {};
  return handler(&frame) ? last.code : XLA_FFI_Error_Code_OK;
}

static std::mt19937_64 rng(0);
Index Draw(Index least, Index most) {
  return std::uniform_int_distribution<Index>(least, most)(rng);
}
template <size_t N>
Index Choose(const Index (&from)[N]) {
  return from[Draw(0, N - 1)];
}

Index Count(const std::vector<Index>& sizes) {
  Index count = 1;
  for (Index size : sizes) count *= size;
  return count;
}

Index Products(const Numbers& n) {
  Index products = n[kBatch] * n[kOuts] * (n[kIns] / n[kGroups]);
  for (int a = 0; a < 3; ++a) products *= n[kOut + a] * n[kWindow + a];
  return products;
}

// A right geometry; every tenth or so has nothing in it.
Numbers Geometry(int* rank) {
  for (;;) {
    Numbers n(22, 1);
    *rank = static_cast<int>(Draw(1, 3));
    const bool tiles = *rank == 2 && Draw(0, 1);  // what Winograd's algorithm takes
    const Index most = *rank == 1 ? 40 : *rank == 2 ? 12 : 5;
    n[kBatch] = Choose({1, 2, 3, 5, 40});
    n[kGroups] = Choose({1, 1, 1, 2, 3, 9});
    n[kIns] = n[kGroups] * (tiles ? Choose({16, 32, 48}) : Choose({1, 2, 3, 5, 8, 16, 17, 33}));
    n[kOuts] = n[kGroups] * (tiles ? Choose({16, 32, 48}) : Choose({1, 2, 3, 5, 8, 16, 17, 33}));
    if (!tiles && Draw(0, 2) == 0)  // depthwise
      n[kGroups] = n[kIns] = n[kOuts] = Choose({2, 3, 4, 7, 8, 13, 16, 20, 32, 35, 56});
    Index least = 1;
    if (tiles && Draw(0, 200) == 0) n[kGroups] = 1, n[kIns] = 272, n[kOuts] = 256;  // too large
    for (int a = 0; a < 3; ++a) {
      n[kBefore + a] = 0;
      if (a < 3 - *rank) continue;
      n[kIn + a] = Draw(1, most);
      n[kWindow + a] = tiles ? 3 : Draw(0, 9) == 0 ? Draw(5, 9) : Draw(1, 4);
      n[kStride + a] = tiles ? 1 : Choose({1, 1, 2, 3, 7});
      n[kDilation + a] = tiles ? 1 : Draw(1, 2);
      n[kBefore + a] = Draw(-2, 4);
      const Index room = n[kIn + a] + n[kBefore + a] + Draw(-2, 4) - 1 -
                         (n[kWindow + a] - 1) * n[kDilation + a];
      n[kOut + a] = room < 0 ? 0 : room / n[kStride + a] + 1;
      least = std::min(least, n[kOut + a]);
    }
    if (Draw(0, 30) == 0) n[Choose({kBatch, kIns, kOuts})] = 0;
    const bool large = n[kIns] == 272;
    if ((least > 0 || Draw(0, 20) == 0) && Products(n) < (large ? 8000000 : 1000000)) return n;
  }
}

struct Memory {
  std::vector<float*> kept;
  ~Memory() { for (float* p : kept) std::free(p); }
  float* Floats(Index count) {
    kept.push_back(static_cast<float*>(std::malloc(count * sizeof(float))));
    return kept.back();
  }
};

[[noreturn]] void Fail(const char* what, int handler, const Numbers& n) {
  std::fprintf(stderr, "%s: handler %d, message '%s', geometry", what, handler, last.message);
  for (Index number : n) std::fprintf(stderr, " %lld", static_cast<long long>(number));
  std::fprintf(stderr, "\n");
  std::exit(1);
}

// Input, output and kernel: their values, and what each is as the others' result.
struct Problem {
  std::array<Array, 3> arrays;
  std::array<std::vector<double>, 3> expected;
};

// The definition. Takes sizes from the geometry, which the arrays have.
void Define(Problem& p, const Numbers& n) {
  const float *x = p.arrays[0].data, *y = p.arrays[1].data, *k = p.arrays[2].data;
  for (int i = 0; i < 3; ++i) p.expected[i].assign(Count(p.arrays[i].sizes), 0.0);
  const Index ins = n[kIns] / n[kGroups], outs = n[kOuts] / n[kGroups];
  Index o[3], t[3];
  for (Index b = 0; b < n[kBatch]; ++b)
    for (o[0] = 0; o[0] < n[kOut]; ++o[0])
    for (o[1] = 0; o[1] < n[kOut + 1]; ++o[1])
    for (o[2] = 0; o[2] < n[kOut + 2]; ++o[2])
      for (t[0] = 0; t[0] < n[kWindow]; ++t[0])
      for (t[1] = 0; t[1] < n[kWindow + 1]; ++t[1])
      for (t[2] = 0; t[2] < n[kWindow + 2]; ++t[2]) {
        Index in = b, out = b, tap = 0;
        bool inside = true;
        for (int a = 0; a < 3; ++a) {
          const Index i = o[a] * n[kStride + a] + t[a] * n[kDilation + a] - n[kBefore + a];
          inside = inside && i >= 0 && i < n[kIn + a];
          if (inside) in = in * n[kIn + a] + i;
          out = out * n[kOut + a] + o[a];
          tap = tap * n[kWindow + a] + t[a];
        }
        if (!inside) continue;
        for (Index c = 0; c < n[kOuts]; ++c)
          for (Index d = 0; d < ins; ++d) {
            const Index at_x = in * n[kIns] + c / outs * ins + d, at_y = out * n[kOuts] + c;
            const Index at_k = (tap * ins + d) * n[kOuts] + c;
            p.expected[0][at_x] += double{y[at_y]} * k[at_k];
            p.expected[1][at_y] += double{x[at_x]} * k[at_k];
            p.expected[2][at_k] += double{x[at_x]} * y[at_y];
          }
      }
}

constexpr struct {
  XLA_FFI_Handler* call;
  int roles[3];  // of its two arguments and its result among a problem's arrays
} kHandlers[4] = {{jaxnets_conv, {0, 2, 1}},
                  {jaxnets_conv_input_gradient, {1, 2, 0}},
                  {jaxnets_conv_kernel_gradient, {0, 1, 2}},
                  {jaxnets_conv_ending, {0, 2, 1}}};

static long right, refused, exhausted;

int main(int, char** argv) {
  Pool threads;
  pool = &threads;
  for (long i = 0, count = std::atol(argv[1]); i < count; ++i) {
    int rank;
    Numbers n = Geometry(&rank);
    const bool huge = i % 100 == 99;  // more than memory holds, once it is padded
    if (huge) {
      rank = 2, n.assign(22, 1), n[kBatch] = 300;
      for (int a = 0; a < 3; ++a) n[kBefore + a] = 0;
      for (int a = 1; a < 3; ++a) n[kOut + a] = 2, n[kStride + a] = 1 << 23;
    }
    Memory memory;
    Problem p;
    for (int role = 0; role < 3; ++role) {
      const Index* axes = &n[role == 0 ? kIn : role == 1 ? kOut : kWindow];
      std::vector<Index>& sizes = p.arrays[role].sizes;
      sizes.assign(axes + 3 - rank, axes + 3);
      if (role < 2) sizes.insert(sizes.begin(), n[kBatch]);
      if (role == 2) sizes.push_back(n[kIns] / n[kGroups]);
      sizes.push_back(n[role == 0 ? kIns : kOuts]);
      const Index size = Count(sizes);
      float* values = p.arrays[role].data = memory.Floats(size);
      for (Index j = 0; j < size; ++j) values[j] = static_cast<float>(Draw(-99, 99)) / 99;
    }
    const Numbers original = n;
    // Scale, shift and what is added.
    const Index channels = n[kOuts];
    std::array<Array, 3> ending = {Array{{channels}, kFloats, nullptr}, Array{{channels}, kFloats, nullptr},
                                         i % 2 ? p.arrays[1] : Array{{0}, kFloats, nullptr}};
    for (int which = 0; which < 2; ++which) {
      ending[which].data = memory.Floats(channels);
      for (Index c = 0; c < channels; ++c) ending[which].data[c] = static_cast<float>(Draw(-9, 9)) / 9;
    }
    for (int handler = 0; handler < 4; ++handler)
      for (int spoilt = 0; spoilt < 3; ++spoilt) {
        const auto& [call, roles] = kHandlers[handler];
        n = original;
        std::vector<Array> arrays = {p.arrays[roles[0]], p.arrays[roles[1]], p.arrays[roles[2]]};
        bool wrong = false;
        if (spoilt == 1) {  // one number of the geometry
          const Index at = Draw(0, 21), old = n[at];
          n[at] = Choose({INT64_MIN, -(Index{1} << 31), -1, 0, old - 1, old + 1, 2 * old,
                          Index{1} << 31, Index{1} << 33, Index{1} << 62, INT64_MAX});
          if (huge && at >= kStride) continue;  // might well fit, and take long
          const bool size = at < kStride && (at != kGroups || original[kIns] > 0);
          const bool step = at >= kStride && (at < kBefore || at >= kDilation);
          wrong = (size && n[at] != old) || (step && n[at] < 1) || n[at] > INT_MAX ||
                  n[at] < -INT_MAX;
        }
        if (spoilt == 2) {  // a buffer, or how many numbers there are
          wrong = true;
          Array& array = arrays[Draw(0, 2)];
          Index& size = array.sizes[Draw(0, rank + 1)];
          const Index old = size;
          switch (Draw(0, 4)) {
            case 0: size = old + 1; break;
            case 1: size = old > 0 ? old - 1 : 3; break;
            case 2: array.sizes.resize(Choose({0, 1, 2, 6}), 1); break;
            case 3: array.type = XLA_FFI_DataType_F64; break;
            case 4: n.resize(Choose({0, 21, 23}), 1); break;
          }
        }
        // A result of its own, with no number in it yet.
        const Index size = Count(p.arrays[roles[2]].sizes);
        float* result = arrays[2].data = memory.Floats(size);
        if (handler == 3) arrays.insert(arrays.begin() + 2, ending.begin(), ending.end());
        const auto blank = [&] { std::fill_n(result, size, NAN); };
        const auto check = [&](const char* what) {
          Define(p, n);
          for (Index j = 0; handler == 3 && j < size; ++j) {
            double& value = p.expected[1][j];
            const Index c = j % channels;
            value = value * ending[0].data[c] + ending[1].data[c] + (i % 2 ? ending[2].data[j] : 0);
            value = std::min(std::max(value, double{low}), double{high});
          }
          double scale = 1;
          for (double value : p.expected[roles[2]]) scale = std::max(scale, std::abs(value));
          for (Index j = 0; j < size; ++j)
            if (!(std::abs(result[j] - p.expected[roles[2]][j]) <= 1e-5 * scale))
              Fail(what, handler, n);
        };
        threads.in_turn = Draw(0, 1);
        blank();
        switch (Call(call, arrays, n)) {
          case XLA_FFI_Error_Code_OK:
            if (wrong) Fail("a wrong geometry was taken", handler, n);
            check("a wrong result");
            ++right;
            break;
          case XLA_FFI_Error_Code_INVALID_ARGUMENT:
            if (spoilt == 0) Fail("a right geometry was refused", handler, n);
            ++refused;
            continue;
          case XLA_FFI_Error_Code_RESOURCE_EXHAUSTED:
            if (!huge) Fail("memory ran out", handler, n);
            ++exhausted;
            continue;
          default:
            Fail("another error", handler, n);
        }
        if (i < 3 || i % 20 != 0) continue;
        for (long left = 0;; left += 1 + left / 16) {  // now memory runs out, ever later
          blank();
          for_good = Draw(0, 1);
          allocations_left = left;
          const XLA_FFI_Error_Code code = Call(call, arrays, n);
          const bool enough = allocations_left > 0;
          allocations_left = LONG_MAX;
          if (code == XLA_FFI_Error_Code_OK) check("a wrong result, with little memory");
          else if (code != XLA_FFI_Error_Code_RESOURCE_EXHAUSTED) Fail("another error", handler, n);
          else ++exhausted;
          if (enough) break;
        }
      }
  }
  std::printf("%ld right, %ld refused, %ld out of memory\n", right, refused, exhausted);
  return right && refused && exhausted ? 0 : 1;
}
