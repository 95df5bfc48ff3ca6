// ReLU and pointwise convolution from some channels to others, and the gradients of both.
#pragma once

#include "interface.h"
#include "pointwise.hpp"

namespace hwnas {

// Pixels of a chunk, which is small enough for the first-level cache.
constexpr Index CHUNK = 48;

// Calls `f(work, first, pixels)` for all chunks of all pixels, and `end(work)` after each
// `PIXELS_OF_PART` of them, with a `work` for each thread, as `for_each`.
template <class Make, class F, class End>
auto for_each_pixel_chunk(int threads, Index pixels, Make make, F f, End end) {
  constexpr Index P = PIXELS_OF_PART;
  return for_each(threads, (pixels + P - 1) / P, make, [&](auto& work, Index part) {
    const Index last = (part + 1) * P < pixels ? (part + 1) * P : pixels;
    for (Index p = part * P; p < last; p += CHUNK)
      f(work, p, p + CHUNK < last ? CHUNK : last - p);
    end(work);
  });
}

// Rectified vectors of some pixels, (pixels, blocks) to [block][pixel].
template <class v>
void rectified_chunk(const v* x, Index pixels, Index blocks, v* to) {
  for (Index p = 0; p < pixels; p++)
    for (Index b = 0; b < blocks; b++) to[b * CHUNK + p] = rectified<v>(x[p * blocks + b]);
}

// z (pixels, width_out) of x (pixels, width) and w (width_out, width).
template <class T, int V>
void relu_pointwise(const Shape& shape, const void* x, int width_out, const void* w, void* z) {
  using v = typename VectorOf<T, V>::type;
  const Index pixels = shape.images * shape.height * shape.width_px;
  const int width = static_cast<int>(shape.width);
  const Index in = width / V, out = width_out / V;
  Buffer<v> matrix(width * out);
  for (int i = 0; i < width; i++)
    for (int o = 0; o < width_out; o++)
      reinterpret_cast<T*>(matrix.get())[i * width_out + o] = static_cast<const T*>(w)[o * width + i];
  const auto make = [&] { return std::make_unique<Buffer<v>>(CHUNK * in); };
  for_each_pixel_chunk(
      shape.threads, pixels, make,
      [&](Buffer<v>& u, Index first, Index count) {
        rectified_chunk(static_cast<const v*>(x) + first * in, count, in, u.get());
        pointwise<1, T, V>(Taps<v>{{u.get()}, 1, CHUNK}, count, width, matrix.get(), out,
                           static_cast<v*>(z) + first * out, out, Index(1));
      },
      [](Buffer<v>&) {});
}

// Gradients of x and of w, NULL where they are not needed, from dz (pixels, width_out).
template <class T, int V>
void relu_pointwise_backward(const Shape& shape, const void* x, int width_out, const void* w,
                             const void* dz, void* dx, void* dw) {
  using v = typename VectorOf<T, V>::type;
  const Index pixels = shape.images * shape.height * shape.width_px;
  const int width = static_cast<int>(shape.width);
  const Index in = width / V, out = width_out / V, size = dw ? width * out : 0;
  Buffer<v> matrix(width_out * in);
  std::memcpy(static_cast<void*>(matrix.get()), w, width_out * in * sizeof(v));
  struct Work {
    Buffer<v> u, dz;
    PartSums<v> dw;
  };
  const auto make = [&] {
    return std::unique_ptr<Work>(
        new Work{Buffer<v>(CHUNK * in), Buffer<v>(CHUNK * out), PartSums<v>(size)});
  };
  const auto works = for_each_pixel_chunk(
      shape.threads, pixels, make,
      [&](Work& work, Index first, Index count) {
        const v* from = static_cast<const v*>(x) + first * in;
        const v* gradient = static_cast<const v*>(dz) + first * out;
        for (Index p = 0; p < count; p++)
          for (Index b = 0; b < out; b++) work.dz[b * CHUNK + p] = gradient[p * out + b];
        if (dw) {
          rectified_chunk(from, count, in, work.u.get());
          outer<1, T, V>(work.u.get(), in, CHUNK, work.dz.get(), out, CHUNK, count,
                         work.dw.part.get());
        }
        if (!dx) return;
        v* to = static_cast<v*>(dx) + first * in;
        pointwise<1, T, V>(Taps<v>{{work.dz.get()}, 1, CHUNK}, count, width_out, matrix.get(), in,
                           to, in, Index(1));
        for (Index i = 0; i < count * in; i++) to[i] = from[i] <= v{} ? v{} : to[i];
      },
      [](Work& work) { work.dw.finish_part(); });
  for (std::size_t thread = 1; thread < works.size(); thread++)
    works[0]->dw.add_total(works[thread]->dw);
  for (int i = 0; dw && i < width; i++)
    for (int o = 0; o < width_out; o++)
      static_cast<T*>(dw)[o * width + i] =
          reinterpret_cast<const T*>(works[0]->dw.total.get())[i * width_out + o];
}

}  // namespace hwnas
