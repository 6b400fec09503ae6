// Convolution on CPUs: forward, gradient in the input, gradient in the kernel; float32.
//
// Channels last, one to three spatial axes (Python pads them to three). Nothing is unrolled into
// a matrix of patches. A table says where in a (padded) group of images each output pixel begins,
// another where, from there, each tap of the kernel reads; the inner loops multiply a register
// block of pixels by a register block of channels. So stride, dilation and the phases of a
// transposed convolution are nothing but other tables.
//
// Sums don't depend on the number of threads: work is cut by the shapes alone.
//
// Nothing outside a buffer is touched, whatever the numbers say: `Fault` checks them against the
// buffers before each call. What is thrown, on whichever thread, becomes the call's error.

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <initializer_list>
#include <limits>
#include <memory>
#include <new>
#include <numeric>
#include <stdexcept>
#include <string>
#include <thread>
#include <type_traits>
#include <vector>

#if defined(__linux__)
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#endif

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace {

using Index = int64_t;

#if defined(__AVX512F__)
constexpr Index kLanes = 16, kPixels = 14, kRows = 8;
#elif defined(__AVX__)
constexpr Index kLanes = 8, kPixels = 6, kRows = 4;
#else
constexpr Index kLanes = 4, kPixels = 6, kRows = 4;
#endif
typedef float Vector __attribute__((vector_size(kLanes * sizeof(float))));
typedef float Loose __attribute__((vector_size(kLanes * sizeof(float)), aligned(4), may_alias));
constexpr Index kVectors = 2;  // of output channels in a register block
constexpr Index kBlock = kVectors * kLanes;

// Vectors, and floats, that so many output channels of a block take up.
constexpr Index Vectors(Index filled) { return filled <= kLanes ? 1 : kVectors; }
constexpr Index Pitch(Index filled) { return Vectors(filled) * kLanes; }

inline Vector Load(const float* p) { return *reinterpret_cast<const Loose*>(p); }
inline void Store(float* p, Vector v) { *reinterpret_cast<Loose*>(p) = v; }
inline void Store(float* p, float v) { *p = v; }
template <typename V>
inline V LoadAs(const float* p) {
  if constexpr (std::is_same_v<V, float>) return *p;
  else return Load(p);
}

Index CeilDiv(Index a, Index b) { return (a + b - 1) / b; }

// Apart from what catches its exceptions: inside a `try`, loops over the weights came out a fifth
// slower.
template <typename Task>
__attribute__((noinline)) void RunOne(const Task& task, Index i) {
  task(i);
}

// Runs task(0) ... task(count - 1) on the pool's threads and this one, and waits. Throws what the
// first of them to fail threw.
template <typename Task>
void ForEach(ffi::ThreadPool& pool, Index count, const Task& task) {
  struct Job {
    std::atomic<Index> next{0}, done{0};
    std::atomic<bool> failed{false};
    std::exception_ptr failure;  // read only when all are done
    Index count;
    const Task* task;  // read by those only who got a number, and while the caller waits
  };
  auto job = std::make_shared<Job>();
  job->count = count;
  job->task = &task;
  auto work = [job] {
    for (Index i; (i = job->next.fetch_add(1)) < job->count;) {
      try {
        RunOne(*job->task, i);
      } catch (...) {  // leaving a thread of the pool, it would end the process
        if (!job->failed.exchange(true)) job->failure = std::current_exception();
      }
      job->done.fetch_add(1, std::memory_order_release);
    }
  };
  const Index threads = std::min<Index>(count, std::max<Index>(1, pool.num_threads()));
  try {
    for (Index i = 1; i < threads; ++i) pool.Schedule(decltype(work)(work));
  } catch (const std::bad_alloc&) {  // then with the threads that it has
  }
  work();
  for (int spins = 0; job->done.load(std::memory_order_acquire) < count; ++spins) {
    if (spins > 2000) std::this_thread::yield();
  }
  if (job->failure) std::rethrow_exception(job->failure);
}

// Memory of this thread that outlives the call: fresh pages would cost more than the copy.
float* Scratch(int which, Index size) {
  thread_local std::vector<float> buffers[3];
  std::vector<float>& buffer = buffers[which];
#if defined(JAXNETS_EXACT_SCRATCH)  // for tests: no longer than asked for, and filled with NaN
  buffer = std::vector<float>(size, std::numeric_limits<float>::quiet_NaN());
#else
  if (static_cast<Index>(buffer.size()) < size) buffer.resize(size);
#endif
  return buffer.data();
}

// Asks for large pages under a result that is about to be written for the first time, and under
// the memory that it lies in: XLA's temporaries, all in one piece. XLA hands them back to the system
// after every call; 4 KB at a time, getting them again takes a tenth to a quarter of a training step.
void WantLargePages(const float* p, Index floats) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uint64_t kPage = 2 << 20;
  uint64_t begin = reinterpret_cast<uint64_t>(p), end = begin + floats * sizeof(float);
  // Since Linux 6.11 one can ask which mapping an address lies in (PROCMAP_QUERY of linux/fs.h);
  // where that fails it is the result alone.
  struct {
    uint64_t size, query_flags, address, begin, end, others[5];
    uint32_t name_size, build_id_size;
    uint64_t name, build_id;
  } query = {};
  query.size = sizeof(query), query.address = begin;
  static const int maps = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
  if (maps >= 0 && ioctl(maps, _IOWR('f', 17, query), &query) == 0) begin = query.begin, end = query.end;
  begin = (begin + kPage - 1) & ~(kPage - 1), end &= ~(kPage - 1);
  if (end > begin) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

struct Geometry {
  Index batch, groups, in_channels, out_channels;  // channels of all groups together
  Index in[3], out[3], window[3], stride[3], before[3], dilation[3];

  Index in_group() const { return in_channels / groups; }
  Index out_group() const { return out_channels / groups; }
  Index taps() const { return window[0] * window[1] * window[2]; }
};

// One set of taps: output pixel q is the sum over taps of weight(tap) times what lies at
// step * q + offset(tap), and is written to step_out * q + start.
struct Phase {
  Index count[3], start[3];
  std::vector<Index> tap;                    // numbers of the taps in the kernel
  std::vector<std::array<Index, 3>> offset;  // in pixels of the input, may be negative
};

// Reading side: an image with a border of zeros.
struct Padded {
  Index before[3] = {0, 0, 0}, size[3], channels;
  bool copied = false;

  void Fit(const Index* image, Index channel_count, const Index* step,
           const std::vector<Phase>& phases) {
    channels = channel_count;
    for (int a = 0; a < 3; ++a) {
      Index low = 0, high = image[a] - 1;
      for (const Phase& phase : phases) {
        for (const auto& offset : phase.offset) {
          low = std::min(low, offset[a]);
          high = std::max(high, step[a] * (phase.count[a] - 1) + offset[a]);
        }
      }
      before[a] = -low;
      size[a] = high - low + 1;
      if (size[a] != image[a]) copied = true;
    }
    // Rows a multiple of 2 KB apart would compete for the same few lines of the first cache.
    if (copied && size[2] * channels % 512 == 0 && size[1] > 1) ++size[2];
  }
  Index floats() const { return size[0] * size[1] * size[2] * channels; }
  Index at(Index z, Index y, Index x) const {
    return (((z + before[0]) * size[1] + y + before[1]) * size[2] + x + before[2]) * channels;
  }
  void Copy(const float* from, const Index* image, float* to) const {
    const Index row = image[2] * channels;
    float* filled = to;  // up to here
    for (Index z = 0; z < image[0]; ++z)
      for (Index y = 0; y < image[1]; ++y) {
        float* begin = to + at(z, y, 0);
        std::memset(filled, 0, (begin - filled) * sizeof(float));
        std::memcpy(begin, from + (z * image[1] + y) * row, row * sizeof(float));
        filled = begin + row;
      }
    std::memset(filled, 0, (to + floats() - filled) * sizeof(float));
  }
  // `count` images with their borders: in this thread's memory, or as they are if they need none.
  const float* Prepare(const float* from, const Index* image, Index count, Index capacity) const {
    if (!copied) return from;
    float* to = Scratch(0, capacity * floats());
    const Index step = image[0] * image[1] * image[2] * channels;
    for (Index i = 0; i < count; ++i) Copy(from + i * step, image, to + i * floats());
    return to;
  }
};

// Images that are worked on together: enough pixels to pay for a pass over the weights.
Index Together(Index pixels, Index batch) {
  return std::min(batch, std::max<Index>(1, 256 / std::max<Index>(1, pixels)));
}

// Where each pixel of a phase begins to read, and where it is written, for `images` of them.
void Tables(const Phase& phase, const Padded& padded, const Index* step, const Index* out,
            const Index* step_out, Index out_channels, Index images, std::vector<Index>* read,
            std::vector<Index>* write) {
  const Index out_image = out[0] * out[1] * out[2] * out_channels;
  const Index size = read->size() + images * phase.count[0] * phase.count[1] * phase.count[2];
  read->reserve(size), write->reserve(size);
  for (Index i = 0; i < images; ++i)
    for (Index z = 0; z < phase.count[0]; ++z)
      for (Index y = 0; y < phase.count[1]; ++y)
        for (Index x = 0; x < phase.count[2]; ++x) {
          read->push_back(i * padded.floats() + padded.at(step[0] * z, step[1] * y, step[2] * x));
          write->push_back(i * out_image + (((phase.start[0] + step_out[0] * z) * out[1] +
                                             phase.start[1] + step_out[1] * y) * out[2] +
                                            phase.start[2] + step_out[2] * x) * out_channels);
        }
}

// Taps that read on where the one before ended, as along the last axis of a convolution without
// groups, are one tap of more channels: of an image of one channel each would be a single product.
// Returns how many are one; the sums stay in the same order.
Index Join(std::vector<Index>* taps, Index depth) {
  const Index count = taps->size();
  Index run = 1;
  while (run < count && (*taps)[run] == (*taps)[0] + run * depth) ++run;
  if (run == 1 || count % run != 0) return 1;
  for (Index t = 0; t < count; ++t)
    if ((*taps)[t] != (*taps)[t - t % run] + t % run * depth) return 1;
  for (Index t = 0; t < count / run; ++t) (*taps)[t] = (*taps)[t * run];
  taps->resize(count / run);
  return run;
}

Index Displacement(const Padded& padded, const std::array<Index, 3>& offset) {
  return ((offset[0] * padded.size[1] + offset[1]) * padded.size[2] + offset[2]) * padded.channels;
}

// What becomes of a sum before it is stored: min(max(sum * scale + shift + add, low), high), or
// nothing if there is no `scale`. `scale` and `shift` hold a number for each output channel and can
// be read by whole vectors; `add`, if there, is as large as the result.
struct Ending {
  const float *scale = nullptr, *shift = nullptr, *add = nullptr;
  float low = 0, high = 0;

  // For a block that begins at a channel, and in the result at a place.
  Ending At(Index channel, Index place) const {
    if (!scale) return {};
    return {scale + channel, shift + channel, add ? add + place : nullptr, low, high};
  }
  // Of the channels from `channel` on; NaN stays NaN. `more` is what is added.
  template <typename V>
  V operator()(V sum, Index channel, V more) const {
    const V least = V{} + low, most = V{} + high;
    const V value = sum * LoadAs<V>(scale + channel) + LoadAs<V>(shift + channel) + more;
    const V raised = value < least ? least : value;
    return raised > most ? most : raised;
  }
  // Stores them at a place of the result.
  template <typename V>
  void Write(float* out, V sum, Index channel, Index place) const {
    if (scale) sum = (*this)(sum, channel, add ? LoadAs<V>(add + place + channel) : V{});
    Store(out + place + channel, sum);
  }
};

// P pixels times N vectors of output channels. Rows of the weights lie `pitch` floats apart. If
// `kEven`, so do pixels that are read, by what the second of `read` says: then the addresses of all
// fit into registers.
template <bool kEven, int P, int N>
void MultiplyBlock(const float* images, const Index* read, const Index* taps, Index tap_count,
                   Index depth, const float* weights, Index pitch, float* out, const Index* write,
                   Index channels, const Ending& ending) {
  // Set one by one, and never pointed to, so that they stay in registers from the first: a group
  // of 16 channels at one of Winograd's points is over in 16 turns.
  Vector sum[P][N];
#pragma GCC unroll 16
  for (int p = 0; p < P; ++p)
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) sum[p][n] = Vector{};
  const Index apart = P > 1 ? read[1] - read[0] : 0;
  for (Index t = 0; t < tap_count; ++t) {
    const float* from[P];
#pragma GCC unroll 16
    for (int p = 0; p < P; p += kEven ? 4 : 1) from[p] = images + taps[t] + read[p];
    for (Index c = 0; c < depth; ++c) {
      Vector w[N];
      for (int n = 0; n < N; ++n) {
        __builtin_prefetch(weights + 16 * pitch + n * kLanes);  // too far apart to be foreseen
        w[n] = Load(weights + n * kLanes);
      }
      weights += pitch;
#pragma GCC unroll 16
      for (int p = 0; p < P; ++p) {
        const float x = kEven ? from[p / 4 * 4][p % 4 * apart + c] : from[p][c];
#pragma GCC unroll 4
        for (int n = 0; n < N; ++n) sum[p][n] += x * w[n];
      }
    }
  }
  if (channels == N * kLanes) {
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p)
#pragma GCC unroll 4
      for (int n = 0; n < N; ++n) ending.Write(out, sum[p][n], n * kLanes, write[p]);
    return;
  }
  Ending rest = ending;
#pragma GCC unroll 16
  for (int p = 0; p < P; ++p) {
    float whole[N * kLanes], more[N * kLanes] = {};
    if (ending.add) std::memcpy(more, ending.add + write[p], channels * sizeof(float));
    rest.add = more;
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) rest.Write(whole, sum[p][n], n * kLanes, 0);
    std::memcpy(out + write[p], whole, channels * sizeof(float));
  }
}

using Block = void (*)(const float*, const Index*, const Index*, Index, Index, const float*, Index,
                       float*, const Index*, Index, const Ending&);
template <bool kEven, int N, int... P>
constexpr std::array<Block, sizeof...(P)> Blocks(std::integer_sequence<int, P...>) {
  return {&MultiplyBlock<kEven, P + 1, N>...};
}
// kBlocks<even>[n - 1][p - 1] is the block of p pixels and n vectors.
template <bool kEven>
const std::array<std::array<Block, kPixels>, kVectors> kBlocks = {
    Blocks<kEven, 1>(std::make_integer_sequence<int, kPixels>()),
    Blocks<kEven, 2>(std::make_integer_sequence<int, kPixels>())};

// P pixels of one output channel, the input channels along the vectors: for images of one or a few
// channels, which would leave the blocks above nearly empty.
template <int P>
void DotBlock(const float* images, const Index* read, const Index* taps, Index tap_count,
              Index depth, const float* weights, float* out, const Index* write, Index live,
              const Ending& ending) {
  Vector sum[P] = {};
  for (Index t = 0; t < tap_count; ++t, weights += depth) {
    const float* from[P];
    for (int p = 0; p < P; ++p) from[p] = images + taps[t] + read[p < live ? p : 0];
    for (Index c = 0; c < depth; c += kLanes) {
      const Vector w = Load(weights + c);
      for (int p = 0; p < P; ++p) sum[p] += Load(from[p] + c) * w;
    }
  }
  for (int p = 0; p < live; ++p) {
    float total = 0;
    for (Index n = 0; n < kLanes; ++n) total += sum[p][n];
    ending.Write(out, total, 0, write[p]);
  }
}
constexpr Index kDotPixels = 8;

// y[write] = sum over taps and channels: the forward pass, and each phase of the input's gradient.
// `weight(tap, group, from, to)` is the kernel's entry, with channels counted inside one group;
// `kernel` are all of them, where they lie as [tap, from, output channel].
template <typename Weight>
void Correlate(ffi::ThreadPool& pool, Index batch, Index groups, const float* x,
               const Index* image, Index x_channels, const Index* step,
               const std::vector<Phase>& phases, float* y, const Index* out, Index y_channels,
               const Index* step_out, const Weight& weight, const float* kernel = nullptr,
               const Ending& ending = {}) {
  const Index from_group = x_channels / groups, to_group = y_channels / groups;
  const bool narrow = 4 * to_group <= kLanes && from_group % kLanes == 0;  // then DotBlock
  const Index kept = narrow ? 1 : kBlock;  // output channels that weights are kept for together
  const Index to_blocks = CeilDiv(to_group, kept);
  Padded padded;
  padded.Fit(image, x_channels, step, phases);

  struct Prepared {
    std::vector<Index> read, write, taps;
    Index depth;  // what each of the taps reads
    bool even;    // whether the same lies between any two neighbours of `read`
    std::unique_ptr<float[]> weights;  // [groups, to_blocks] of [taps, depth, Pitch or 1]
  };
  const Index pixels = out[0] * out[1] * out[2];
  const Index together = Together(pixels, batch);
  // For a few pixels weights are read where they are, rather than first brought side by side.
  const bool few = kernel && !narrow && batch * pixels <= 16 * kPixels;
  const auto in_place = [&](Index filled) { return few && filled % kLanes == 0; };
  std::vector<Prepared> prepared(phases.size());
  for (size_t i = 0; i < phases.size(); ++i) {
    Prepared& p = prepared[i];
    Tables(phases[i], padded, step, out, step_out, y_channels, together, &p.read, &p.write);
    for (const auto& offset : phases[i].offset) p.taps.push_back(Displacement(padded, offset));
    p.weights.reset(new float[groups * to_blocks * p.taps.size() * from_group * kept]);
    p.depth = from_group * Join(&p.taps, from_group);
    p.even = true;
    for (size_t q = 2; q < p.read.size(); ++q)
      p.even = p.even && p.read[q] - p.read[q - 1] == p.read[1] - p.read[0];
  }
  for (size_t i = 0; i < phases.size(); ++i) {
    Prepared& p = prepared[i];
    const Index taps = phases[i].tap.size();
    ForEach(pool, groups * to_blocks, [&](Index block) {
      const Index group = block / to_blocks, first = block % to_blocks * kept;
      const Index filled = std::min(kept, to_group - first), pitch = narrow ? 1 : Pitch(filled);
      if (in_place(filled)) return;
      float* to = p.weights.get() + block * taps * from_group * kept;
      for (Index t = 0; t < taps; ++t)
        for (Index c = 0; c < from_group; ++c, to += pitch) {
          for (Index n = 0; n < filled; ++n) to[n] = weight(phases[i].tap[t], group, c, first + n);
          std::fill(to + filled, to + pitch, 0.0f);
        }
    });
  }

  const Index image_floats = image[0] * image[1] * image[2] * x_channels;
  const Index out_floats = pixels * y_channels;
  const Index chunks = CeilDiv(batch, together);
  // Few images and many threads: cut the output channels as well.
  const Index cuts = std::min(groups * to_blocks,
                              std::max<Index>(1, 2 * pool.num_threads() / std::max<Index>(1, chunks)));
  ForEach(pool, chunks * cuts, [&](Index task) {
    const Index chunk = task / cuts, cut = task % cuts;
    const Index first = chunk * together, count = std::min(together, batch - first);
    const float* from = padded.Prepare(x + first * image_floats, image, count, together);
    float* into = y + first * out_floats;
    const Index begin = groups * to_blocks * cut / cuts, end = groups * to_blocks * (cut + 1) / cuts;
    for (size_t i = 0; i < phases.size(); ++i) {
      const Prepared& p = prepared[i];
      const Index taps = p.taps.size();
      const Index rows = static_cast<Index>(p.read.size()) / together * count;
      for (Index block = begin; block < end; ++block) {
        const Index group = block / to_blocks, channel = block % to_blocks * kept;
        const Index filled = std::min(kept, to_group - channel);
        const bool here = in_place(filled);
        const Index to_channel = group * to_group + channel;
        const Index pitch = here ? y_channels : Pitch(filled);
        const float* weights =
            here ? kernel + to_channel : p.weights.get() + block * taps * p.depth * kept;
        float* to = into + to_channel;
        const Ending local = ending.At(to_channel, first * out_floats + to_channel);
        if (narrow) {
          for (Index row = 0; row < rows; row += kDotPixels)
            DotBlock<kDotPixels>(from + group * from_group, &p.read[row], p.taps.data(), taps,
                                 p.depth, weights, to, &p.write[row],
                                 std::min(kDotPixels, rows - row), local);
          continue;
        }
        const auto& kernels = (p.even ? kBlocks<true> : kBlocks<false>)[Vectors(filled) - 1];
        for (Index row = 0; row < rows; row += kPixels) {
          kernels[std::min(kPixels, rows - row) - 1](
              from + group * from_group, &p.read[row], p.taps.data(), taps, p.depth, weights, pitch,
              to, &p.write[row], filled, local);
        }
      }
    }
  });
}

// Rows of the kernel's gradient (a tap and an input channel each) times N vectors of output
// channels, summed over pixels. `apart` holds where each row reads; consecutive if `kDense`. The
// slopes lie `pitch` floats from pixel to pixel, `aside` from one vector of channels to the next.
template <int N, bool kDense>
void OuterBlock(const float* images, const Index* read, const Index* apart, Index pixels,
                const float* slopes, Index pitch, Index aside, float* sums, Index sums_pitch, Index rows) {
  Vector sum[kRows][N] = {};
  Index at[kRows];
  for (int r = 0; r < kRows; ++r) at[r] = apart[r < rows ? r : 0];
  for (Index q = 0; q < pixels; ++q, slopes += pitch) {
    const float* x = images + read[q];
    Vector g[N];
    for (int n = 0; n < N; ++n) g[n] = Load(slopes + n * aside);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const float value = kDense ? x[at[0] + r] : x[at[r]];
#pragma GCC unroll 4
      for (int n = 0; n < N; ++n) sum[r][n] += value * g[n];
    }
  }
  for (int r = 0; r < rows; ++r)
    for (int n = 0; n < N; ++n) {
      float* to = sums + r * sums_pitch + n * kLanes;
      Store(to, Load(to) + sum[r][n]);
    }
}

Phase ForwardPhase(const Geometry& g) {
  Phase phase;
  for (int a = 0; a < 3; ++a) phase.count[a] = g.out[a], phase.start[a] = 0;
  for (Index z = 0; z < g.window[0]; ++z)
    for (Index y = 0; y < g.window[1]; ++y)
      for (Index x = 0; x < g.window[2]; ++x) {
        phase.tap.push_back((z * g.window[1] + y) * g.window[2] + x);
        phase.offset.push_back({z * g.dilation[0] - g.before[0], y * g.dilation[1] - g.before[1],
                                x * g.dilation[2] - g.before[2]});
      }
  return phase;
}

// Input pixel i is read by output pixel o through tap t where o * stride + t * dilation - before
// = i. Pixels i = start (mod stride) share their taps: those whose distance the stride divides.
std::vector<Phase> BackwardPhases(const Geometry& g) {
  std::vector<Phase> phases;
  for (Index a = 0; a < std::min(g.stride[0], g.in[0]); ++a)
    for (Index b = 0; b < std::min(g.stride[1], g.in[1]); ++b)
      for (Index c = 0; c < std::min(g.stride[2], g.in[2]); ++c) {
        Phase phase;
        const Index start[3] = {a, b, c};
        for (int i = 0; i < 3; ++i) {
          phase.start[i] = start[i];
          phase.count[i] = CeilDiv(g.in[i] - start[i], g.stride[i]);
        }
        for (Index t = 0; t < g.taps(); ++t) {
          const Index tap[3] = {t / (g.window[1] * g.window[2]), t / g.window[2] % g.window[1],
                                t % g.window[2]};
          std::array<Index, 3> offset;
          bool met = true;
          for (int i = 0; i < 3; ++i) {
            const Index distance = start[i] + g.before[i] - tap[i] * g.dilation[i];
            met = met && distance % g.stride[i] == 0;
            offset[i] = distance / g.stride[i];
          }
          if (met) phase.tap.push_back(t), phase.offset.push_back(offset);
        }
        phases.push_back(std::move(phase));
      }
  return phases;
}

// Winograd's minimal filtering F(2x2, 3x3): 16 products for 4 output pixels where the definition
// takes 36, in tiles of 2x2 pixels (Lavin and Gray 2015, arXiv:1509.09308). The rounding error
// grows from about 2e-7 to 6e-7.
//
//   y = A^T [(G k G^T) * (B^T d B)] A   for a 4x4 tile d of the input.
struct Winograd {
  static constexpr Index kPoints = 16;
  static constexpr Index kBundle = 128;  // channels of groups that are transformed together

  Index in_height, in_width, in_channels, height, width, out_channels, tiles;  // of one image
  Index before[2];
  std::vector<float> zeros;               // a pixel outside the image
  std::vector<Index> write;               // of each tile, for `together` images
  std::vector<unsigned char> rows, cols;  // how many of its pixels lie in the image

  Winograd(const Index* image, Index from_channels, const Index* out, Index to_channels,
           const Index* border, Index together)
      : in_height(image[1]), in_width(image[2]), in_channels(from_channels), height(out[1]),
        width(out[2]), out_channels(to_channels), tiles(CeilDiv(height, 2) * CeilDiv(width, 2)),
        before{border[1], border[2]}, zeros(from_channels) {
    for (Index i = 0; i < together; ++i)
      for (Index y = 0; y < height; y += 2)
        for (Index x = 0; x < width; x += 2) {
          write.push_back(((i * height + y) * width + x) * out_channels);
          rows.push_back(height - y > 1 ? 2 : 1);
          cols.push_back(width - x > 1 ? 2 : 1);
        }
  }

  // B^T d B of `count` tiles from `first` on and `channels` of the channels, the first of which
  // `images` points to: `apart` floats from tile to tile, `aside` from one vector of channels to
  // the next, and the whole of them from point to point.
  void TransformInput(const float* images, Index channels, Index first, Index count,
                      Index capacity, Index apart, Index aside, float* to) const {
    const Index across = CeilDiv(width, 2), step = capacity * channels;
    for (Index t = 0; t < count; ++t) {
      const Index image = (first + t) / tiles, tile = (first + t) % tiles;
      const Index y = tile / across * 2 - before[0], x = tile % across * 2 - before[1];
      const float* pixel[4][4];
      for (int i = 0; i < 4; ++i)
        for (int j = 0; j < 4; ++j) {
          const bool inside = y + i >= 0 && y + i < in_height && x + j >= 0 && x + j < in_width;
          const Index place = (image * in_height + y + i) * in_width + x + j;
          pixel[i][j] = inside ? images + place * in_channels : zeros.data();
        }
      for (Index c = 0; c < channels; c += kLanes) {
        Vector d[4][4];
        for (int j = 0; j < 4; ++j) {
          Vector column[4];
          for (int i = 0; i < 4; ++i) column[i] = Load(pixel[i][j] + c);
          d[0][j] = column[0] - column[2];
          d[1][j] = column[1] + column[2];
          d[2][j] = column[2] - column[1];
          d[3][j] = column[1] - column[3];
        }
        for (int i = 0; i < 4; ++i) {
          float* out = to + 4 * i * step + t * apart + c / kLanes * aside;
          Store(out, d[i][0] - d[i][2]);
          Store(out + step, d[i][1] + d[i][2]);
          Store(out + 2 * step, d[i][2] - d[i][1]);
          Store(out + 3 * step, d[i][1] - d[i][3]);
        }
      }
    }
  }

  // A^T m A: from[point][tile][Pitch] to the pixels of each tile, `filled` channels of them.
  void TransformOutput(const float* from, Index first, Index count, Index capacity, Index filled,
                       float* out, const Ending& ending) const {
    for (Index t = 0; t < count; ++t) {
      const int down = rows[first + t], across = cols[first + t];
      for (Index c = 0; c < filled; c += kLanes) {
        Vector s[2][4];
        for (int j = 0; j < 4; ++j) {
          Vector m[4];
          for (int i = 0; i < 4; ++i)
            m[i] = Load(from + ((4 * i + j) * capacity + t) * Pitch(filled) + c);
          s[0][j] = m[0] + m[1] + m[2];
          s[1][j] = m[1] - m[2] - m[3];
        }
        for (int i = 0; i < down; ++i) {
          const Index row = write[first + t] + i * width * out_channels;
          ending.Write(out, s[i][0] + s[i][1] + s[i][2], c, row);
          if (across > 1) ending.Write(out, s[i][1] - s[i][2] - s[i][3], c, row + out_channels);
        }
      }
    }
  }

  // A g A^T of the slopes' tiles, of `channels` channels: to[point][vector of them][tile][lane].
  void TransformSlope(const float* slopes, Index channels, Index first, Index count,
                      Index capacity, float* to) const {
    const Vector zero = {};
    const Index step = capacity * channels;
    for (Index t = 0; t < count; ++t) {
      const float* pixel = slopes + write[first + t];
      const bool down = rows[first + t] > 1, across = cols[first + t] > 1;
      const float* below = pixel + width * out_channels;
      for (Index c = 0; c < channels; c += kLanes) {
        Vector g[2][2] = {{Load(pixel + c), across ? Load(pixel + out_channels + c) : zero},
                          {down ? Load(below + c) : zero,
                           down && across ? Load(below + out_channels + c) : zero}};
        Vector s[4][2];
        for (int j = 0; j < 2; ++j) {
          s[0][j] = g[0][j];
          s[1][j] = g[0][j] + g[1][j];
          s[2][j] = g[0][j] - g[1][j];
          s[3][j] = -g[1][j];
        }
        for (int i = 0; i < 4; ++i) {
          float* out = to + 4 * i * step + c * capacity + t * kLanes;
          Store(out, s[i][0]);
          Store(out + step, s[i][0] + s[i][1]);
          Store(out + 2 * step, s[i][0] - s[i][1]);
          Store(out + 3 * step, -s[i][1]);
        }
      }
    }
  }
};

// Whether F(2x2, 3x3) applies, and pays: not where half of the tiles' pixels lie outside.
bool UsesWinograd(const Geometry& g) {
  const Index pixels = g.out[1] * g.out[2];
  const Index computed = 4 * CeilDiv(g.out[1], 2) * CeilDiv(g.out[2], 2);
  return g.in[0] == 1 && g.out[0] == 1 && g.window[0] == 1 && g.window[1] == 3 &&
         g.window[2] == 3 && g.stride[1] == 1 && g.stride[2] == 1 && g.dilation[1] == 1 &&
         g.dilation[2] == 1 && g.before[0] == 0 && g.in_group() % kLanes == 0 &&
         g.out_group() % kLanes == 0 && 2 * computed <= 3 * pixels;
}

// G k G^T for one input channel and up to kBlock output channels: to[point * step + lane].
void TransformKernel(const float (*k)[kBlock], Index pitch, Index step, float* to) {
  float half[4][3][kBlock];
  for (int x = 0; x < 3; ++x)
    for (Index n = 0; n < pitch; ++n) {
      const float a = k[x][n], b = k[3 + x][n], c = k[6 + x][n];
      half[0][x][n] = a;
      half[1][x][n] = 0.5f * (a + b + c);
      half[2][x][n] = 0.5f * (a - b + c);
      half[3][x][n] = c;
    }
  for (int i = 0; i < 4; ++i)
    for (Index n = 0; n < pitch; ++n) {
      const float a = half[i][0][n], b = half[i][1][n], c = half[i][2][n];
      to[(4 * i) * step + n] = a;
      to[(4 * i + 1) * step + n] = 0.5f * (a + b + c);
      to[(4 * i + 2) * step + n] = 0.5f * (a - b + c);
      to[(4 * i + 3) * step + n] = c;
    }
}

template <typename Weight>
void CorrelateWinograd(ffi::ThreadPool& pool, Index batch, Index groups, const float* x,
                       const Index* image, Index from_channels, const Index* before, float* y,
                       const Index* out, Index to_channels, const Weight& weight,
                       const Ending& ending = {}) {
  const Index pixels = out[1] * out[2], together = Together(pixels, batch);
  const Winograd w(image, from_channels, out, to_channels, before, together);
  const Index from_group = from_channels / groups, to_group = to_channels / groups;
  const Index in_group = CeilDiv(to_group, kBlock), blocks = groups * in_group;
  const Index points = Winograd::kPoints;
  const Index block_floats = points * from_group * kBlock;  // of [point, from, Pitch]
  std::unique_ptr<float[]> weights(new float[blocks * block_floats]);
  const auto first_of = [&](Index block) { return block % in_group * kBlock; };
  ForEach(pool, blocks, [&](Index block) {
    const Index first = first_of(block), filled = std::min(kBlock, to_group - first);
    const Index pitch = Pitch(filled);
    float k[9][kBlock] = {};
    for (Index c = 0; c < from_group; ++c) {
      for (int t = 0; t < 9; ++t)
        for (Index n = 0; n < filled; ++n) k[t][n] = weight(t, block / in_group, c, first + n);
      TransformKernel(k, pitch, from_group * pitch, &weights[block * block_floats + c * pitch]);
    }
  });
  const Index image_floats = image[1] * image[2] * from_channels;
  const Index chunks = CeilDiv(batch, together);
  const Index cuts =
      std::min(blocks, std::max<Index>(1, 2 * pool.num_threads() / std::max<Index>(1, chunks)));
  // Groups whose inputs are transformed together: few enough for the cache.
  const Index bundle = std::min(groups, std::max<Index>(1, Winograd::kBundle / from_group));
  ForEach(pool, chunks * cuts, [&](Index task) {
    const Index chunk = task / cuts, cut = task % cuts;
    const Index first = chunk * together, count = std::min(together, batch - first);
    const float* from = x + first * image_floats;
    float* into = y + first * pixels * to_channels;
    float* inputs = Scratch(1, points * kPixels * bundle * from_group);
    float* outputs = Scratch(2, points * kPixels * kBlock);
    Index read[kPixels], write[kPixels];
    const Index none = 0;
    for (Index tile = 0; tile < count * w.tiles; tile += kPixels) {
      const Index live = std::min(kPixels, count * w.tiles - tile);
      Index bundled = -1, channels = 0;  // which groups `inputs` holds, and how many channels
      for (Index block = blocks * cut / cuts; block < blocks * (cut + 1) / cuts; ++block) {
        const Index group = block / in_group, channel = first_of(block);
        const Index filled = std::min(kBlock, to_group - channel), pitch = Pitch(filled);
        if (group / bundle != bundled) {
          bundled = group / bundle;
          channels = std::min(bundle, groups - bundled * bundle) * from_group;
          w.TransformInput(from + bundled * bundle * from_group, channels, tile, live, kPixels,
                           channels, kLanes, inputs);
          for (Index p = 0; p < kPixels; ++p) read[p] = p * channels;
        }
        for (Index p = 0; p < kPixels; ++p) write[p] = p * pitch;
        const Block multiply = kBlocks<true>[Vectors(filled) - 1][live - 1];
        const float* of_group = inputs + group % bundle * from_group;
        for (Index point = 0; point < points; ++point) {
          multiply(of_group + point * kPixels * channels, read, &none, 1, from_group,
                   &weights[block * block_floats + point * from_group * pitch], pitch,
                   outputs + point * kPixels * pitch, write, filled, {});
        }
        const Index to_channel = group * to_group + channel;
        w.TransformOutput(outputs, tile, live, kPixels, filled, into + to_channel,
                          ending.At(to_channel, first * pixels * to_channels + to_channel));
      }
    }
  });
}

// Depthwise convolutions: each channel has a kernel of its own, and the channels lie along the
// vectors. Nothing is padded or copied: along each axis it is known through which taps a pixel of
// the result reads. These are evenly spaced, and so is what they read.
struct Reads {
  Index tap, source, count;  // the first tap, the pixel that it reads, and how many taps there are
};
struct Axis {
  Index tap_step = 1, source_step = 1;  // from one of a pixel's taps to the next
  std::vector<Reads> reads;             // of each pixel of the result
};

Axis ForwardAxis(const Geometry& g, int a) {
  Axis axis{1, g.dilation[a], {}};
  for (Index o = 0; o < g.out[a]; ++o) {
    const Index start = o * g.stride[a] - g.before[a];  // what the first tap reads
    const Index first = start < 0 ? CeilDiv(-start, g.dilation[a]) : 0;
    const Index end = start < g.in[a] ? CeilDiv(g.in[a] - start, g.dilation[a]) : 0;
    const Index count = std::min(end, g.window[a]) - first;
    if (count > 0) axis.reads.push_back({first, start + first * g.dilation[a], count});
    else axis.reads.push_back({0, 0, 0});
  }
  return axis;
}

// Input pixel i is read by output pixel o through tap t where o * stride + t * dilation - before
// = i: through every `tap_step`-th of the taps.
Axis BackwardAxis(const Geometry& g, int a) {
  const Index divisor = std::gcd(g.stride[a], g.dilation[a]), across = g.dilation[a] / divisor;
  Axis axis{g.stride[a] / divisor, -across, {}};
  for (Index i = 0; i < g.in[a]; ++i) {
    const Index most = std::min(axis.tap_step, g.window[a]);
    Index tap = 0;
    while (tap < most && (i + g.before[a] - tap * g.dilation[a]) % g.stride[a] != 0) ++tap;
    const Index source = (i + g.before[a] - tap * g.dilation[a]) / g.stride[a];
    if (tap == most || source < 0) {
      axis.reads.push_back({0, 0, 0});
      continue;
    }
    const Index skipped = source < g.out[a] ? 0 : CeilDiv(source - g.out[a] + 1, across);
    const Index end = std::min(CeilDiv(g.window[a] - tap, axis.tap_step), source / across + 1);
    axis.reads.push_back({tap + skipped * axis.tap_step, source - skipped * across,
                          std::max<Index>(0, end - skipped)});
  }
  return axis;
}

// Pixels `first`, `first` + apart, ... of a row, which read the same taps, one `step` after another.
struct Stretch {
  Index first, count;
};

std::vector<Stretch> Stretches(const std::vector<Reads>& reads, Index apart, Index step) {
  std::vector<Stretch> stretches;
  const Index size = reads.size();
  for (Index start = 0; start < std::min(apart, size); ++start)
    for (Index q = start; q < size; q += stretches.back().count * apart) {
      Index count = 1;
      const auto alike = [&](const Reads& other) {
        return other.tap == reads[q].tap && other.count == reads[q].count &&
               other.source == reads[q].source + count * step;
      };
      while (count < kPixels && q + count * apart < size && alike(reads[q + count * apart])) ++count;
      stretches.push_back({q, count});
    }
  return stretches;
}

template <typename V>
constexpr Index kWidth = sizeof(V) / sizeof(float);

// Floats between neighbours along each axis, in the source and in the kernel, and how many.
struct Strides {
  Index source[3], tap[3], count[3];
};

// P pixels times N vectors of channels; a "vector" may be one float.
template <typename V, int N, int P>
void DepthwiseBlock(const float* source, Index source_apart, const float* kernel, const Strides& s,
                    float* out, Index out_apart, const Ending& ending) {
  V sum[P][N];
#pragma GCC unroll 16
  for (int p = 0; p < P; ++p)
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) sum[p][n] = V{};
  for (Index z = 0; z < s.count[0]; ++z)
    for (Index y = 0; y < s.count[1]; ++y) {
      const float* from = source + z * s.source[0] + y * s.source[1];
      const float* weights = kernel + z * s.tap[0] + y * s.tap[1];
      for (Index x = 0; x < s.count[2]; ++x, from += s.source[2], weights += s.tap[2]) {
        V w[N];
#pragma GCC unroll 4
        for (int n = 0; n < N; ++n) w[n] = LoadAs<V>(weights + n * kWidth<V>);
#pragma GCC unroll 16
        for (int p = 0; p < P; ++p)
#pragma GCC unroll 4
          for (int n = 0; n < N; ++n)
            sum[p][n] += LoadAs<V>(from + p * source_apart + n * kWidth<V>) * w[n];
      }
    }
#pragma GCC unroll 16
  for (int p = 0; p < P; ++p)
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) ending.Write(out, sum[p][n], n * kWidth<V>, p * out_apart);
}

using Spread = void (*)(const float*, Index, const float*, const Strides&, float*, Index,
                        const Ending&);
template <typename V, int N, int... P>
constexpr std::array<Spread, sizeof...(P)> Spreads(std::integer_sequence<int, P...>) {
  return {&DepthwiseBlock<V, N, P + 1>...};
}
template <typename V, int N>
const auto kSpreads = Spreads<V, N>(std::make_integer_sequence<int, kPixels>());

// Calls `run(V{}, N, channel, place)`, N a constant, for blocks that cover the channels `begin` to
// `end`. The last vector may overlap the one before, but has a place of its own; where there are
// fewer channels than a vector has floats, they go one by one.
template <typename Function>
void ForChannels(Index begin, Index end, const Function& run) {
  constexpr std::integral_constant<int, kVectors> several;
  constexpr std::integral_constant<int, 1> one;
  Index c = begin;
  for (; c + kBlock <= end; c += kBlock) run(Vector{}, several, c, c);
  for (; c + kLanes <= end; c += kLanes) run(Vector{}, one, c, c);
  if (c < end && end >= kLanes) return run(Vector{}, one, end - kLanes, c);
  for (; c < end; ++c) run(0.0f, one, c, c);
}

// y[q] = sum over taps of kernel[tap] * x[source]: forward, or the gradient in the input. Along the
// last axis pixels `apart` from each other read `step` from each other.
void Depthwise(ffi::ThreadPool& pool, Index batch, Index channels, const float* x,
               const Index* image, const Index* window, const float* kernel, float* y,
               const Index* out, const std::array<Axis, 3>& axes, Index apart, Index step,
               const Ending& ending = {}) {
  const std::vector<Stretch> stretches = Stretches(axes[2].reads, apart, step);
  const Index pixels[3] = {image[1] * image[2], image[2], 1};  // between neighbours
  const Index taps[3] = {window[1] * window[2], window[2], 1};
  Strides strides;
  for (int a = 0; a < 3; ++a) {
    strides.source[a] = axes[a].source_step * pixels[a] * channels;
    strides.tap[a] = axes[a].tap_step * taps[a] * channels;
  }
  // Channels that are worked on together: as many as can be read at a stretch while their weights
  // stay in the first cache.
  const Index together = std::max<Index>(1, 2048 / (window[0] * taps[0] * kBlock)) * kBlock;
  const Index rows = batch * out[0] * out[1], row_floats = out[2] * channels;
  const Index tasks = std::min(rows, std::max<Index>(batch, 4 * pool.num_threads()));
  ForEach(pool, tasks, [&](Index task) {
    Strides s = strides;
    for (Index row = rows * task / tasks; row < rows * (task + 1) / tasks; ++row) {
      const Reads &z = axes[0].reads[row / out[1] % out[0]], &down = axes[1].reads[row % out[1]];
      s.count[0] = z.count, s.count[1] = down.count;
      const Index from_row = (row / (out[0] * out[1]) * image[0] + z.source) * image[1] + down.source;
      const Index tap_row = z.tap * taps[0] + down.tap * taps[1];
      for (Index begin = 0; begin < channels; begin += together)
        for (const Stretch& stretch : stretches) {
          const Reads& across = axes[2].reads[stretch.first];
          s.count[2] = across.count;
          const float* from = x + (from_row * image[2] + across.source) * channels;
          const float* weights = kernel + (tap_row + across.tap) * channels;
          const Index place = row * row_floats + stretch.first * channels;
          ForChannels(begin, std::min(channels, begin + together),
                      [&](auto vector, auto count, Index channel, Index) {
                        kSpreads<decltype(vector), count()>[stretch.count - 1](
                            from + channel, step * channels, weights + channel, s,
                            y + place + channel, apart * channels,
                            ending.At(channel, place + channel));
                      });
        }
    }
  });
}

// Where, along one axis, the outputs begin and end that a tap reads something through.
std::array<Index, 2> Seen(const Geometry& g, int a, Index tap) {
  const Index distance = g.before[a] - tap * g.dilation[a];  // output o reads o * stride - distance
  const Index begin = distance > 0 ? CeilDiv(distance, g.stride[a]) : 0;
  const Index end = g.in[a] + distance > 0 ? CeilDiv(g.in[a] + distance, g.stride[a]) : 0;
  return {begin, std::max(begin, std::min(end, g.out[a]))};
}

// Adds to W taps along the last axis, times N vectors of channels, what `rows` x `pixels` outputs
// say. The numbers are floats between neighbours.
struct Apart {
  Index image_row, image_pixel, image_tap, slope_row, slope_pixel;
};
template <typename V, int N, int W>
void DepthwiseOuter(const float* images, const float* slopes, const Apart& apart, Index rows,
                    Index pixels, float* sums, Index channels) {
  V sum[W][N];
#pragma GCC unroll 8
  for (int w = 0; w < W; ++w)
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) sum[w][n] = LoadAs<V>(sums + w * channels + n * kWidth<V>);
  for (Index row = 0; row < rows; ++row) {
    const float* x = images + row * apart.image_row;
    const float* slope = slopes + row * apart.slope_row;
    for (Index q = 0; q < pixels; ++q, x += apart.image_pixel, slope += apart.slope_pixel) {
      V g[N];
#pragma GCC unroll 4
      for (int n = 0; n < N; ++n) g[n] = LoadAs<V>(slope + n * kWidth<V>);
#pragma GCC unroll 8
      for (int w = 0; w < W; ++w)
#pragma GCC unroll 4
        for (int n = 0; n < N; ++n)
          sum[w][n] += LoadAs<V>(x + w * apart.image_tap + n * kWidth<V>) * g[n];
    }
  }
#pragma GCC unroll 8
  for (int w = 0; w < W; ++w)
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) Store(sums + w * channels + n * kWidth<V>, sum[w][n]);
}

constexpr int kTaps = 7;  // at most, of a row of the kernel, in registers together
using Outer = void (*)(const float*, const float*, const Apart&, Index, Index, float*, Index);
template <typename V, int N, int... W>
constexpr std::array<Outer, sizeof...(W)> Outers(std::integer_sequence<int, W...>) {
  return {&DepthwiseOuter<V, N, W + 1>...};
}
template <typename V, int N>
const auto kOuters = Outers<V, N>(std::make_integer_sequence<int, kTaps>());

void DepthwiseKernelGradient(ffi::ThreadPool& pool, const Geometry& g, const float* x,
                             const float* slopes, float* kernel) {
  const Index channels = g.in_channels, rest = channels % kLanes, whole = channels - rest;
  const Index pitch = rest > 0 && whole > 0 ? whole + kLanes : channels;
  const Apart apart = {g.stride[1] * g.in[2] * channels, g.stride[2] * channels,
                       g.dilation[2] * channels, g.out[2] * channels, channels};
  std::vector<std::array<Index, 2>> seen[3];  // of each tap
  for (int a = 0; a < 3; ++a)
    for (Index t = 0; t < g.window[a]; ++t) seen[a].push_back(Seen(g, a, t));
  // Outputs that are worked on together: a few rows, whose block of channels fits into the cache.
  const Index together = std::max<Index>(1, 200 / g.out[2]), bands = CeilDiv(g.out[1], together);
  const Index units = g.batch * g.out[0] * bands, size = g.taps() * pitch;
  const Index slices = std::min(units, std::max<Index>(2, std::min<Index>(8, (4 << 20) / size)));
  const Index blocks = CeilDiv(channels, kBlock);
  const Index cuts = std::min(blocks, std::max<Index>(1, pool.num_threads() / slices));
  std::unique_ptr<float[]> sums(new float[slices * size]);  // [slice, taps, pitch]

  ForEach(pool, slices * cuts, [&](Index task) {
    const Index slice = task / cuts, cut = task % cuts;
    const Index begin = blocks * cut / cuts * kBlock;
    const Index end = std::min(channels, blocks * (cut + 1) / cuts * kBlock);
    const Index last = end == channels ? pitch : end;
    for (Index t = 0; t < g.taps(); ++t)
      std::fill(&sums[slice * size + t * pitch + begin], &sums[slice * size + t * pitch] + last, 0.0f);
    for (Index unit = units * slice / slices; unit < units * (slice + 1) / slices; ++unit) {
      const Index image = unit / (g.out[0] * bands), z = unit / bands % g.out[0];
      const Index top = unit % bands * together, bottom = std::min(g.out[1], top + together);
      ForChannels(begin, end, [&](auto vector, auto count, Index channel, Index place) {
        using V = decltype(vector);
        const auto& outers = kOuters<V, count()>;
        for (Index t = 0; t < g.window[0] * g.window[1]; ++t) {
          const Index tap_z = t / g.window[1], tap_y = t % g.window[1];
          const auto [from_z, to_z] = seen[0][tap_z];
          const Index from_y = std::max(top, seen[1][tap_y][0]), to_y = std::min(bottom, seen[1][tap_y][1]);
          if (z < from_z || z >= to_z || from_y >= to_y) continue;
          const Index plane = image * g.in[0] + z * g.stride[0] + tap_z * g.dilation[0] - g.before[0];
          const Index row = plane * g.in[1] + from_y * g.stride[1] + tap_y * g.dilation[1] - g.before[1];
          const Index out_row = (image * g.out[0] + z) * g.out[1] + from_y;
          const auto add = [&](Index tap, Index taps, Index from, Index to) {
            if (from >= to) return;
            const Index pixel = from * g.stride[2] + tap * g.dilation[2] - g.before[2];
            outers[taps - 1](x + (row * g.in[2] + pixel) * channels + channel,
                             slopes + (out_row * g.out[2] + from) * channels + channel, apart,
                             to_y - from_y, to - from,
                             &sums[slice * size + (t * g.window[2] + tap) * pitch + place], pitch);
          };
          for (Index tap = 0; tap < g.window[2]; tap += kTaps) {
            // Outputs that read something through all of these taps; the others tap by tap.
            const Index taps = std::min<Index>(kTaps, g.window[2] - tap);
            Index first = 0, after = g.out[2];
            for (Index w = tap; w < tap + taps; ++w)
              first = std::max(first, seen[2][w][0]), after = std::min(after, seen[2][w][1]);
            after = std::max(first, after);
            add(tap, taps, first, after);
            for (Index w = tap; w < tap + taps; ++w) {
              add(w, 1, seen[2][w][0], std::min(seen[2][w][1], first));
              add(w, 1, std::max(seen[2][w][0], after), seen[2][w][1]);
            }
          }
        }
      });
    }
  });
  ForEach(pool, g.taps(), [&](Index tap) {
    for (Index c = 0; c < channels; ++c) {
      const float* from = &sums[tap * pitch + (c < whole ? c : c + pitch - channels)];
      float total = *from;
      for (Index slice = 1; slice < slices; ++slice) total += from[slice * size];
      kernel[tap * channels + c] = total;
    }
  });
}

bool IsDepthwise(const Geometry& g) {
  return g.groups > 1 && g.groups == g.in_channels && g.groups == g.out_channels;
}

bool IsPointwise(const Geometry& g) {
  bool is = true;
  for (int a = 0; a < 3; ++a)
    is = is && g.window[a] == 1 && g.stride[a] == 1 && g.before[a] == 0 && g.in[a] == g.out[a];
  return is;
}

constexpr Index kOnes[3] = {1, 1, 1};

void ForwardTo(ffi::ThreadPool& pool, Geometry g, const float* x, const float* kernel, float* y,
               const Ending& ending) {
  // Where pixels are independent, rows of them are images: short tables, and what is read and
  // written for some of them stays in the cache.
  for (int a = 0; a < 2 && IsPointwise(g); ++a) g.batch *= g.in[a], g.in[a] = g.out[a] = 1;
  if (IsDepthwise(g)) {
    Depthwise(pool, g.batch, g.in_channels, x, g.in, g.window, kernel, y, g.out,
              {ForwardAxis(g, 0), ForwardAxis(g, 1), ForwardAxis(g, 2)}, 1, g.stride[2], ending);
    return;
  }
  const Index to_group = g.out_group(), from_group = g.in_group();
  const auto weight = [&](Index tap, Index group, Index from, Index to) {
    return kernel[(tap * from_group + from) * g.out_channels + group * to_group + to];
  };
  if (UsesWinograd(g)) {
    CorrelateWinograd(pool, g.batch, g.groups, x, g.in, g.in_channels, g.before, y, g.out,
                      g.out_channels, weight, ending);
    return;
  }
  Correlate(pool, g.batch, g.groups, x, g.in, g.in_channels, g.stride, {ForwardPhase(g)}, y, g.out,
            g.out_channels, kOnes, weight, kernel, ending);
}

void Forward(ffi::ThreadPool& pool, const Geometry& g, const float* x, const float* kernel,
             float* y) {
  ForwardTo(pool, g, x, kernel, y, {});
}

void InputGradient(ffi::ThreadPool& pool, const Geometry& g, const float* slopes,
                   const float* kernel, float* x) {
  if (IsDepthwise(g)) {
    Depthwise(pool, g.batch, g.in_channels, slopes, g.out, g.window, kernel, x, g.in,
              {BackwardAxis(g, 0), BackwardAxis(g, 1), BackwardAxis(g, 2)}, g.stride[2], 1);
    return;
  }
  const Index out_group = g.out_group(), in_group = g.in_group();
  const auto weight = [&](Index tap, Index group, Index from, Index to) {
    return kernel[(tap * in_group + to) * g.out_channels + group * out_group + from];
  };
  if (UsesWinograd(g)) {  // the same, with the kernel read backwards
    const Index before[3] = {0, 2 - g.before[1], 2 - g.before[2]};
    CorrelateWinograd(pool, g.batch, g.groups, slopes, g.out, g.out_channels, before, x, g.in,
                      g.in_channels, [&](Index tap, Index group, Index from, Index to) {
                        return weight(8 - tap, group, from, to);
                      });
    return;
  }
  Correlate(pool, g.batch, g.groups, slopes, g.out, g.out_channels, kOnes, BackwardPhases(g), x,
            g.in, g.in_channels, g.stride, weight);
}

// The kernel's gradient among Winograd's points: G^T [sum over tiles of (B^T d B) (A g A^T)] G.
void KernelGradientWinograd(ffi::ThreadPool& pool, const Geometry& g, const float* x,
                            const float* slopes, float* kernel) {
  constexpr Index kTiles = 56;
  const Index pixels = g.out[1] * g.out[2], together = Together(pixels, g.batch);
  const Index from = g.in_group(), to = g.out_channels, points = Winograd::kPoints;
  const Winograd w(g.in, g.in_channels, g.out, to, g.before, together);
  const Index chunks = CeilDiv(g.batch, together), size = points * from * to;
  const Index slices = std::min(chunks, std::max<Index>(2, std::min<Index>(8, (4 << 20) / size)));
  const Index to_group = g.out_group(), in_group = CeilDiv(to_group, kBlock);
  const Index bundle = std::min(
      g.groups, std::max<Index>(1, Winograd::kBundle / std::max(from, to_group)));
  std::unique_ptr<float[]> sums(new float[slices * size]);  // [slice, point, from, to]
  std::vector<Index> read(kTiles), apart(kLanes);
  for (Index t = 0; t < kTiles; ++t) read[t] = t * kLanes;
  for (Index c = 0; c < kLanes; ++c) apart[c] = c;
  ForEach(pool, slices, [&](Index slice) {
    float* sum = sums.get() + slice * size;
    std::memset(sum, 0, size * sizeof(float));
    float* inputs = Scratch(1, points * kTiles * bundle * from);
    float* outputs = Scratch(2, points * kTiles * bundle * to_group);
    // What one group adds: rows of input channels, blocks of output channels.
    const auto add = [&](Index group, Index ins, Index outs, Index live) {
      for (Index point = 0; point < points; ++point)
        for (Index block = 0; block < in_group; ++block) {
          const Index lane = group % bundle * to_group + block * kBlock;
          const Index channel = group * to_group + block * kBlock;
          auto run = Vectors(to_group - block * kBlock) == 1 ? OuterBlock<1, true>
                                                              : OuterBlock<2, true>;
          for (Index row = 0; row < from; row += kRows) {
            const Index in = group % bundle * from + row / kLanes * kLanes;
            run(inputs + (point * ins + in) * kTiles, read.data(), &apart[row % kLanes], live,
                outputs + (point * outs + lane) * kTiles, kLanes, kTiles * kLanes,
                sum + (point * from + row) * to + channel, to, kRows);
          }
        }
    };
    for (Index chunk = chunks * slice / slices; chunk < chunks * (slice + 1) / slices; ++chunk) {
      const Index first = chunk * together, count = std::min(together, g.batch - first);
      const float* images = x + first * g.in[1] * g.in[2] * g.in_channels;
      for (Index tile = 0; tile < count * w.tiles; tile += kTiles) {
        const Index live = std::min(kTiles, count * w.tiles - tile);
        for (Index group = 0; group < g.groups; group += bundle) {
          const Index members = std::min(bundle, g.groups - group);
          const Index ins = members * from, outs = members * to_group;
          w.TransformInput(images + group * from, ins, tile, live, kTiles, kLanes, kTiles * kLanes,
                           inputs);
          w.TransformSlope(slopes + first * pixels * to + group * to_group, outs, tile, live, kTiles,
                           outputs);
          for (Index member = group; member < group + members; ++member) add(member, ins, outs, live);
        }
      }
    }
  });
  ForEach(pool, from, [&](Index row) {
    for (Index channel = 0; channel < to; channel += kLanes) {
      Vector u[4][4], half[3][4];
      for (int p = 0; p < 16; ++p) {
        const float* at = sums.get() + (p * from + row) * to + channel;
        u[p / 4][p % 4] = Load(at);
        for (Index slice = 1; slice < slices; ++slice) u[p / 4][p % 4] += Load(at + slice * size);
      }
      for (int j = 0; j < 4; ++j) {
        const Vector plus = 0.5f * (u[1][j] + u[2][j]), minus = 0.5f * (u[1][j] - u[2][j]);
        half[0][j] = u[0][j] + plus;
        half[1][j] = minus;
        half[2][j] = plus + u[3][j];
      }
      for (int i = 0; i < 3; ++i) {
        const Vector plus = 0.5f * (half[i][1] + half[i][2]);
        float* out = kernel + (3 * i * from + row) * to + channel;
        Store(out, half[i][0] + plus);
        Store(out + from * to, 0.5f * (half[i][1] - half[i][2]));
        Store(out + 2 * from * to, plus + half[i][3]);
      }
    }
  });
}

void KernelGradient(ffi::ThreadPool& pool, const Geometry& g, const float* x, const float* slopes,
                    float* kernel) {
  if (IsDepthwise(g)) {
    DepthwiseKernelGradient(pool, g, x, slopes, kernel);
    return;
  }
  // Past this size its sums, 16 for each pair of channels, no longer stay in the cache.
  if (UsesWinograd(g) && g.in_group() * g.out_channels <= 256 * 256) {
    KernelGradientWinograd(pool, g, x, slopes, kernel);
    return;
  }
  const Phase phase = ForwardPhase(g);
  Padded padded;
  padded.Fit(g.in, g.in_channels, g.stride, {phase});
  const Index pixels = g.out[0] * g.out[1] * g.out[2];
  const Index together = Together(pixels, g.batch);
  std::vector<Index> read, write;
  Tables(phase, padded, g.stride, g.out, kOnes, g.out_channels, together, &read, &write);
  const Index in_group = g.in_group(), out_group = g.out_group();
  const Index blocks = CeilDiv(out_group, kBlock), pitch = blocks * kBlock;
  const Index rows = g.taps() * in_group;
  std::vector<Index> apart(rows);
  for (Index t = 0; t < g.taps(); ++t)
    for (Index c = 0; c < in_group; ++c)
      apart[t * in_group + c] = Displacement(padded, phase.offset[t]) + c;

  constexpr Index kTile = 256;
  // Slices of the batch are summed apart and then together: few enough for their memory.
  const Index size = g.groups * rows * pitch;
  const Index chunks = CeilDiv(g.batch, together);
  const Index slices = std::min(chunks, std::max<Index>(2, std::min<Index>(8, (4 << 20) / size)));
  const Index cuts = std::min(g.groups * blocks,
                              std::max<Index>(1, pool.num_threads() / std::max<Index>(1, slices)));
  std::unique_ptr<float[]> sums(new float[slices * size]);
  const Index image_floats = g.in[0] * g.in[1] * g.in[2] * g.in_channels;
  ForEach(pool, slices * cuts, [&](Index task) {
    const Index slice = task / cuts, cut = task % cuts;
    const Index begin = g.groups * blocks * cut / cuts, end = g.groups * blocks * (cut + 1) / cuts;
    float* sum = sums.get() + slice * size;
    std::memset(sum + begin * rows * kBlock, 0, (end - begin) * rows * kBlock * sizeof(float));
    for (Index chunk = chunks * slice / slices; chunk < chunks * (slice + 1) / slices; ++chunk) {
      const Index first = chunk * together, count = std::min(together, g.batch - first);
      const float* from = padded.Prepare(x + first * image_floats, g.in, count, together);
      // A tile of pixels at a time: what they hold stays in the cache for all blocks and rows.
      for (Index tile = 0; tile < count * pixels; tile += kTile) {
        const Index live = std::min(kTile, count * pixels - tile);
        for (Index block = begin; block < end; ++block) {
          const Index group = block / blocks, channel = block % blocks * kBlock;
          const Index filled = std::min(kBlock, out_group - channel);
          const float* slope =
              slopes + (first * pixels + tile) * g.out_channels + group * out_group + channel;
          Index slope_pitch = g.out_channels;
          if (filled % kLanes != 0) {  // read by whole vectors: fill up with zeros
            float* to = Scratch(1, kTile * kBlock);
            for (Index q = 0; q < live; ++q) {
              std::memcpy(to + q * kBlock, slope + q * slope_pitch, filled * sizeof(float));
              std::memset(to + q * kBlock + filled, 0, (kBlock - filled) * sizeof(float));
            }
            slope = to, slope_pitch = kBlock;
          }
          for (Index row = 0; row < rows; row += kRows) {
            const Index kept = std::min(kRows, rows - row);
            const bool dense = kept == kRows && apart[row + kRows - 1] - apart[row] == kRows - 1;
            auto run = filled <= kLanes ? (dense ? OuterBlock<1, true> : OuterBlock<1, false>)
                                        : (dense ? OuterBlock<2, true> : OuterBlock<2, false>);
            run(from + group * in_group, &read[tile], &apart[row], live, slope, slope_pitch, kLanes,
                sum + (block * rows + row) * kBlock, kBlock, kept);
          }
        }
      }
    }
  });
  ForEach(pool, g.groups * blocks, [&](Index block) {
    const Index group = block / blocks, channel = block % blocks * kBlock;
    const Index filled = std::min(kBlock, out_group - channel);
    for (Index row = 0; row < rows; ++row) {
      float* to = kernel + row * g.out_channels + group * out_group + channel;
      const float* from = sums.get() + (block * rows + row) * kBlock;
      for (Index n = 0; n < filled; ++n) {
        float total = from[n];
        for (Index slice = 1; slice < slices; ++slice) total += from[slice * size + n];
        to[n] = total;
      }
    }
  });
}

// What a buffer holds: [batch, *in, in_channels], [batch, *out, out_channels], or
// [*window, in_group, out_channels].
enum Role { kInput, kOutput, kKernel };
struct Operand {
  Role role;
  ffi::Span<const int64_t> sizes;
};

std::string Listed(const int64_t* begin, const int64_t* end) {
  std::string text = "[";
  for (const int64_t* p = begin; p < end; ++p) text += (p > begin ? ", " : "") + std::to_string(*p);
  return text + "]";
}

// What is wrong with a geometry, or with a buffer that doesn't fit it; empty if nothing is. With
// what passes, every index stays in its buffer, and every product in 64 bits.
std::string Fault(const Geometry& g, std::initializer_list<Operand> operands) {
  constexpr Index kMost = std::numeric_limits<int32_t>::max();
  std::string fault;
  const auto within = [&](const char* name, Index value, Index least) {
    if (!fault.empty() || (least <= value && value <= kMost)) return;
    fault = std::string(name) + " is " + std::to_string(value) + ", outside " +
            std::to_string(least) + ".." + std::to_string(kMost);
  };
  within("the batch size", g.batch, 0);
  within("the number of groups", g.groups, 1);
  within("the number of input channels", g.in_channels, 0);
  within("the number of output channels", g.out_channels, 0);
  for (int a = 0; a < 3; ++a) {
    within("an input size", g.in[a], 0);
    within("an output size", g.out[a], 0);
    within("a window size", g.window[a], 0);
    within("a stride", g.stride[a], 1);
    within("a padding", g.before[a], -kMost);
    within("a dilation", g.dilation[a], 1);
  }
  if (!fault.empty()) return fault;
  for (Index channels : {g.in_channels, g.out_channels})
    if (channels % g.groups != 0)
      return std::to_string(channels) + " channels cannot be divided into " +
             std::to_string(g.groups) + " groups";

  // Any output size is right for some padding behind the input, as long as that has a bound too.
  double floats = static_cast<double>(std::max(g.in_channels, g.out_channels));
  for (int a = 0; a < 3; ++a) {
    const Index reach = std::max<Index>(0, g.window[a] - 1) * g.dilation[a];
    const Index span = std::max<Index>(0, g.out[a] - 1) * g.stride[a];
    within("the distance between a window's ends", reach, 0);
    within("the distance between the first and the last output", span, 0);
    if (!fault.empty()) return fault;
    within("the padding behind the input that its output size implies",
           span + reach + 1 - g.before[a] - g.in[a], -kMost);
    // No less than an image with its border of zeros takes, in either direction.
    floats *= static_cast<double>(std::max<Index>(1, std::max(g.in[a], g.out[a])) + span + reach +
                                  2 * std::abs(g.before[a]));
  }
  if (!fault.empty()) return fault;
  constexpr Index kMostFloats = Index{1} << 53;  // 256 of them are worked on together
  if (floats > static_cast<double>(kMostFloats))
    return "an image with its padding has more than " + std::to_string(kMostFloats) + " numbers";

  for (const auto& [role, sizes] : operands) {
    const Index* axes = role == kInput ? g.in : role == kOutput ? g.out : g.window;
    const std::array<Index, 5> expected =
        role == kKernel
            ? std::array<Index, 5>{axes[0], axes[1], axes[2], g.in_group(), g.out_channels}
            : std::array<Index, 5>{g.batch, axes[0], axes[1], axes[2],
                                   role == kInput ? g.in_channels : g.out_channels};
    // A buffer has one to three spatial axes; the geometry has ones for those that are missing.
    const Index first = role == kKernel ? 0 : 1, missing = 5 - static_cast<Index>(sizes.size());
    bool fits = missing >= 0 && missing <= 2;
    for (Index i = 0; fits && i < 5; ++i) {
      const bool there = i < first || i >= first + missing;
      fits = expected[i] == (there ? sizes[i < first ? i : i - missing] : 1);
    }
    if (!fits)
      return "the " + std::string(role == kInput ? "input" : role == kOutput ? "output" : "kernel") +
             " has the shape " + Listed(sizes.begin(), sizes.end()) +
             ", but its geometry asks for " + Listed(expected.data(), expected.data() + 5);
  }
  return fault;
}

using Buffer = ffi::Buffer<ffi::F32>;
using Result = ffi::Result<ffi::Buffer<ffi::F32>>;
using Run = void (*)(ffi::ThreadPool&, const Geometry&, const float*, const float*, float*);

// Checks what came from XLA and calls `run(geometry)`, unless there is nothing to do.
template <typename Function>
ffi::Error Checked(ffi::Span<const int64_t> n, std::initializer_list<Operand> operands,
                   Result& result, bool empty, const Function& run) try {
  Geometry g;
  static_assert(sizeof(Geometry) == 22 * sizeof(Index));
  if (n.size() != 22)
    return ffi::Error::InvalidArgument("a geometry has 22 numbers, not " + std::to_string(n.size()));
  std::memcpy(&g, n.begin(), sizeof(g));
  std::string fault = Fault(g, operands);
  if (!fault.empty()) return ffi::Error::InvalidArgument(std::move(fault));
  if (empty || result->element_count() == 0) {
    std::fill_n(result->typed_data(), result->element_count(), 0.0f);
    return ffi::Error::Success();
  }
  WantLargePages(result->typed_data(), result->element_count());
  return run(g);
} catch (const std::bad_alloc&) {  // so short a message needs no memory of its own
  return ffi::Error(ffi::ErrorCode::kResourceExhausted, "out of memory");
} catch (const std::length_error&) {
  return ffi::Error(ffi::ErrorCode::kResourceExhausted, "out of memory");
} catch (const std::exception& error) {
  return ffi::Error::Internal(error.what());
} catch (...) {
  return ffi::Error::Internal("unknown error");
}

template <Run run, Role of_a, Role of_b, Role of_c>
ffi::Error Call(ffi::ThreadPool pool, Buffer a, Buffer b, Result c, ffi::Span<const int64_t> n) {
  return Checked(n, {{of_a, a.dimensions()}, {of_b, b.dimensions()}, {of_c, c->dimensions()}}, c,
                 a.element_count() == 0 || b.element_count() == 0, [&](const Geometry& g) {
                   run(pool, g, a.typed_data(), b.typed_data(), c->typed_data());
                   return ffi::Error::Success();
                 });
}

// A convolution with an `Ending`. `add` has one axis of no numbers where nothing is added.
ffi::Error CallEnding(ffi::ThreadPool pool, Buffer x, Buffer kernel, Buffer scale, Buffer shift,
                      Buffer add, Result y, ffi::Span<const int64_t> n, float low, float high) {
  const auto adds = [&] { return add.dimensions().size() != 1; };
  return Checked(
      n, {{kInput, x.dimensions()}, {kKernel, kernel.dimensions()}, {kOutput, y->dimensions()}}, y,
      false, [&](const Geometry& g) {
        for (const auto& of_channels : {scale.dimensions(), shift.dimensions()})
          if (of_channels.size() != 1 || of_channels[0] != g.out_channels)
            return ffi::Error::InvalidArgument("a scale and a shift are " +
                                               std::to_string(g.out_channels) + " numbers each");
        const auto sizes = add.dimensions(), of_y = y->dimensions();
        if (adds() ? !std::equal(sizes.begin(), sizes.end(), of_y.begin(), of_y.end())
                   : sizes[0] != 0)
          return ffi::Error::InvalidArgument("what is added has the shape " +
                                             Listed(sizes.begin(), sizes.end()) +
                                             ", not that of the result");
        std::vector<float> padded(2 * (g.out_channels + kBlock));  // read by whole vectors
        float *scales = padded.data(), *shifts = scales + g.out_channels + kBlock;
        std::copy_n(scale.typed_data(), g.out_channels, scales);
        std::copy_n(shift.typed_data(), g.out_channels, shifts);
        const Ending ending = {scales, shifts, adds() ? add.typed_data() : nullptr, low, high};
        float* const out = y->typed_data();
        if (x.element_count() == 0 || kernel.element_count() == 0) {
          for (Index i = 0; i < static_cast<Index>(y->element_count()); ++i)
            ending.Write(out, 0.0f, i % g.out_channels, i - i % g.out_channels);
          return ffi::Error::Success();
        }
        ForwardTo(pool, g, x.typed_data(), kernel.typed_data(), out, ending);
        return ffi::Error::Success();
      });
}

}  // namespace

#define JAXNETS_HANDLER(name, ...)                                       \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(name, (Call<__VA_ARGS__>),               \
                                ffi::Ffi::Bind()                         \
                                    .Ctx<ffi::ThreadPool>()              \
                                    .Arg<Buffer>()                       \
                                    .Arg<Buffer>()                       \
                                    .Ret<ffi::Buffer<ffi::F32>>()        \
                                    .Attr<ffi::Span<const int64_t>>("geometry"))

JAXNETS_HANDLER(jaxnets_conv, Forward, kInput, kKernel, kOutput);
JAXNETS_HANDLER(jaxnets_conv_input_gradient, InputGradient, kOutput, kKernel, kInput);
JAXNETS_HANDLER(jaxnets_conv_kernel_gradient, KernelGradient, kInput, kOutput, kKernel);

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxnets_conv_ending, CallEnding,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Buffer>()
                                  .Arg<Buffer>()
                                  .Arg<Buffer>()
                                  .Arg<Buffer>()
                                  .Arg<Buffer>()
                                  .Ret<ffi::Buffer<ffi::F32>>()
                                  .Attr<ffi::Span<const int64_t>>("geometry")
                                  .Attr<float>("low")
                                  .Attr<float>("high"));
