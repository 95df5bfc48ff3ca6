// Vectors, and memory for them. The vector extensions of GCC and Clang compile to AVX-512, AVX2,
// SSE or NEON, depending on the compiler's flags.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <memory>
#include <new>
#include <vector>

#define INLINE inline __attribute__((always_inline))
#define INLINED __attribute__((always_inline))  // the same behind the parameters of a lambda
#define UNROLL _Pragma("GCC unroll 32")

namespace hwnas {

using Index = std::int64_t;

template <class T, int V>
struct VectorOf {
  typedef T type __attribute__((vector_size(V * sizeof(T))));
};

template <class v, class T>
INLINE v broadcast(T value) {
  return value - v{};
}

// `largest` and `rectified` propagate NaN, as PyTorch does.
template <class v>
INLINE v largest(v a, v b) {
  return ((a > b) | (a != a)) ? a : b;
}

template <class v>
INLINE v rectified(v a) {
  return a < v{} ? v{} : a;
}

// Vectors in memory, read by their index.
template <class T, int V>
struct Full {
  using v = typename VectorOf<T, V>::type;

  INLINE explicit Full(const void* data) : data(static_cast<const v*>(data)) {}
  INLINE v operator[](Index i) const { return data[i]; }
  INLINE Full from(Index i) const { return Full(data + i); }

  const v* data;
};

// The same for vectors of floats that are stored in bfloat16, which is the upper half of a float.
template <class T, int V>
struct Short {
  using v = typename VectorOf<T, V>::type;
  using Stored = typename VectorOf<std::uint16_t, V>::type;
  using Bits = typename VectorOf<std::uint32_t, V>::type;

  INLINE explicit Short(const void* data) : data(static_cast<const Stored*>(data)) {}
  INLINE v operator[](Index i) const {
    return reinterpret_cast<v>(__builtin_convertvector(data[i], Bits) << 16);
  }
  INLINE Short from(Index i) const { return Short(data + i); }
  // Rounds to nearest, and ties to even. NaN stays NaN: it gets a bit that is not cut off.
  static INLINE Stored rounded(v value) {
    const Bits bits = reinterpret_cast<Bits>(value);
    const Bits nearest = bits + 0x7fff + (bits >> 16 & 1);
    return __builtin_convertvector((value == value ? nearest : bits | 0x400000) >> 16, Stored);
  }

  const Stored* data;
};

// Calls `f` with the vectors at an address as `Full` or `Short`.
template <class T, int V, class F>
INLINE void with_stored(bool is_short, const void* data, F f) {
  if constexpr (sizeof(T) == sizeof(float))
    if (is_short) return f(Short<T, V>(data));
  f(Full<T, V>(data));
}

// Prefetches `count` vectors, `step` apart, that are needed soon. Kernels that read many tensors side
// by side wait for memory without it; behind the end of a tensor it does nothing.
template <class v>
INLINE void fetch_ahead(const v* from, Index step, Index count) {
  UNROLL for (Index i = 0; i < count; i++) __builtin_prefetch(from + i * step);
}

// Vectors that are needed soon, one for every output of a row; nothing if `at` is NULL.
struct Stream {
  const char* at = nullptr;
  Index step = 0, block = 0;  // bytes between outputs and between blocks of channels

  INLINE void fetch(Index from, Index count) const {
    if (!at) return;
    UNROLL for (Index i = 0; i < count; i++) __builtin_prefetch(at + (from + i) * step);
  }
  Stream moved(Index outputs, Index blocks) const {
    return {at ? at + outputs * step + blocks * block : at, step, block};
  }
};

// Up to two tensors that are needed soon. Kernels that compute much prefetch them meanwhile, a few
// vectors at a time: many at once would make the next loads wait.
struct Ahead {
  Stream first, second;

  INLINE void fetch(Index from, Index count) const {
    first.fetch(from, count);
    second.fetch(from, count);
  }
  // Those of later outputs.
  Ahead from(Index outputs) const { return {first.moved(outputs, 0), second.moved(outputs, 0)}; }
  // Those of block `b` of channels.
  Ahead block(Index b) const { return {first.moved(0, b), second.moved(0, b)}; }
};

// How far ahead of what they compute kernels prefetch, where they go by pixels and by rows.
constexpr Index PIXELS_AHEAD = 32, ROWS_AHEAD = 4;

// Zeroed memory, aligned for any vector.
template <class v>
class Buffer {
 public:
  explicit Buffer(Index count) {
    const std::size_t bytes = (static_cast<std::size_t>(count) * sizeof(v) + 63) / 64 * 64 + 64;
    data_ = static_cast<v*>(std::aligned_alloc(64, bytes));
    if (data_ == nullptr) throw std::bad_alloc();
    std::memset(static_cast<void*>(data_), 0, bytes);
  }
  ~Buffer() { std::free(data_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  v* get() { return data_; }
  v& operator[](Index i) { return data_[i]; }

 private:
  v* data_;
};

// Number of vector registers.
#if defined(__aarch64__)
constexpr int REGISTERS = 32;
#else
constexpr int REGISTERS = REGISTER_BYTES == 64 ? 32 : 16;
#endif

// Calls `body(work, i)` for i from 0 to count - 1 in at most `threads` threads, each of which has a
// `work` of its own that `make` returns as a std::unique_ptr. Each thread makes its own, so that
// memory is cleared in parallel and lies near the processor that uses it. Returns the works in the
// order of the threads that ran. An exception must not leave a parallel region: what `make` throws
// is thrown again behind it.
template <class Make, class Body>
auto for_each(int threads, Index count, Make make, Body body) {
  const int used = static_cast<int>(count < threads ? count : threads);
  std::vector<decltype(make())> works(used);
  std::exception_ptr error;
#pragma omp parallel num_threads(used) if (used > 1)
  {
    auto& work = works[thread_number()];
    try {
      work = make();
    } catch (...) {
#pragma omp critical
      error = std::current_exception();
    }
#pragma omp for schedule(static)
    for (Index i = 0; i < count; i++)
      if (work) body(*work, i);
  }
  if (error) std::rethrow_exception(error);
  // OpenMP may start fewer threads than it is asked for.
  works.erase(std::remove(works.begin(), works.end(), nullptr), works.end());
  return works;
}

// For threads that need no memory of their own.
struct Nothing {};
inline std::unique_ptr<Nothing> no_work() { return std::make_unique<Nothing>(); }

}  // namespace hwnas
