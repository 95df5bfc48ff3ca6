// ReLU and convolution of one stage, with the statistics of its outputs.
#pragma once

#include "depthwise.hpp"
#include "packing.hpp"

namespace hwnas {

// The depthwise convolution for output rows h ... h + rows - 1; `out` is [block][chunk] of vectors.
template <int K, int D, int S, class T, int V>
void depthwise_chunk(const Layout<T, V>& l, const typename VectorOf<T, V>::type* plane,
                     const typename VectorOf<T, V>::type* w, Index h, Index rows,
                     typename VectorOf<T, V>::type* out, Index chunk, const Ahead& ahead) {
  constexpr int R = K / 2 * D;
  const Index wide = l.shape.out_width;
  for (Index b = 0; b < l.blocks; b++)
    for (Index r = 0; r < rows; r++)
      depthwise_row<K, D, S, false>(
          plane + b * l.plane + l.origin() + ((h + r) * S - R) * l.row - R, l.row, w + b * K * K,
          out + b * chunk + r * wide, wide, ahead.from(r * wide).block(b));
}

// Calls `f` with the kernel, dilation and stride of a convolution as constants.
template <class F>
INLINE void with_geometry(const Convolution& c, F f) {
  auto strided = [&](auto k, auto d) {
    if (c.stride == 1) f(k, d, std::integral_constant<int, 1>{});
    else f(k, d, std::integral_constant<int, 2>{});
  };
  auto dilated = [&](auto k) {
    if (c.dilation == 1) strided(k, std::integral_constant<int, 1>{});
    else strided(k, std::integral_constant<int, 2>{});
  };
  if (c.kernel == 3) dilated(std::integral_constant<int, 3>{});
  else dilated(std::integral_constant<int, 5>{});
}

// `depthwise_chunk` for the geometry of a convolution.
template <class T, int V>
void depthwise_forward(const Layout<T, V>& l, const Convolution& c,
                       const typename VectorOf<T, V>::type* plane,
                       const typename VectorOf<T, V>::type* w, Index h, Index rows,
                       typename VectorOf<T, V>::type* out, Index chunk, const Ahead& ahead) {
  with_geometry(c, [&](auto k, auto d, auto s) {
    depthwise_chunk<k.value, d.value, s.value>(l, plane, w, h, rows, out, chunk, ahead);
  });
}

// Sum and sum of squares of one output in double, from chunks that are summed in T as deviations
// from a pivot, which keeps them accurate where the mean is large.
template <class T, int V>
struct Moments {
  using v = typename VectorOf<T, V>::type;

  // Adds one block of channels of some pixels, `step` vectors apart, to `sums` (2, width): the sum
  // and the sum of squares.
  static INLINE void add(const v* z, Index pixels, Index step, Index blocks, Index b,
                         double* sums) {
    const v pivot = z[0];
    v s0{}, s1{}, q0{}, q1{};
    Index p = 0;
    for (; p + 2 <= pixels; p += 2) {
      const v d0 = z[p * step] - pivot, d1 = z[(p + 1) * step] - pivot;
      s0 += d0, q0 += d0 * d0, s1 += d1, q1 += d1 * d1;
    }
    if (p < pixels) {
      const v d = z[p * step] - pivot;
      s0 += d, q0 += d * d;
    }
    s0 += s1, q0 += q1;
    for (int lane = 0; lane < V; lane++) {
      const double n = static_cast<double>(pixels), s = s0[lane];
      const double mean = pivot[lane] + s / n;
      sums[b * V + lane] += n * mean;
      sums[(blocks + b) * V + lane] += q0[lane] - s * s / n + n * mean * mean;
    }
  }
  // Mean and biased variance, (2, width), from the sums of all parts, which are `stride` apart.
  static void finish(const double* sums, Index parts, Index stride, Index width, double count,
                     double* out) {
    for (Index c = 0; c < width; c++) {
      double s = 0, q = 0;
      for (Index n = 0; n < parts; n++) s += sums[n * stride + c], q += sums[n * stride + width + c];
      const double mean = s / count, variance = q / count - mean * mean;
      out[c] = mean;
      out[width + c] = variance < 0 ? 0 : variance;
    }
  }
};

// One convolution of rows first ... last - 1 of one image, and its sums; `u` and `out` hold one
// chunk each. The outputs go to `z`, which is this image's part of the stored ones; `next` is the
// image that is read afterwards.
template <class T, int V>
void convolve_image(const Layout<T, V>& l, const Convolution& c, Weights<T, V>& weights,
                    const typename VectorOf<T, V>::type* plane, typename VectorOf<T, V>::type* u,
                    typename VectorOf<T, V>::type* out, Index chunk, Index first, Index last,
                    const Stream& next, void* z, double* sums) {
  using v = typename VectorOf<T, V>::type;
  const bool is_short = l.shape.short_stages;
  const Index wide = l.shape.out_width, rows_max = chunk / wide;
  for (Index h = first; h < last; h += rows_max) {
    const Index rows = h + rows_max <= last ? rows_max : last - h;
    const Index pixels = rows * wide, at = h * wide * l.blocks;
    v* to = is_short ? out : static_cast<v*>(z) + at;
    if (c.kind == SEPARABLE) {
      depthwise_forward(l, c, plane, weights.depthwise.get(), h, rows, u, chunk,
                        Ahead{l.stream(z, is_short), {}}.from(h * wide));
      const Taps<v> taps{{u}, 1, chunk};
      pointwise<1, T, V>(taps, pixels, l.channels, weights.matrix.get(), l.blocks, to, l.blocks,
                         Index(1), Ahead{next, {}}.from(h * wide));
    } else {
      for (Index r = 0; r < rows; r++) {
        const auto taps = taps_at(l, c, h + r, plane);
        v* line = to + r * wide * l.blocks;
        if (c.stride == 1)
          pointwise<1, T, V>(taps, wide, l.channels, weights.matrix.get(), l.blocks, line, l.blocks,
                             Index(1));
        else
          pointwise<2, T, V>(taps, wide, l.channels, weights.matrix.get(), l.blocks, line, l.blocks,
                             Index(1));
      }
    }
    if constexpr (sizeof(T) == sizeof(float)) {
      using Rounding = Short<T, V>;
      auto* stored = static_cast<typename Rounding::Stored*>(z) + at;
      for (Index i = 0; is_short && i < pixels * l.blocks; i++)
        stored[i] = Rounding::rounded(to[i]);
    }
    for (Index b = 0; b < l.blocks; b++)
      Moments<T, V>::add(to + b, pixels, l.blocks, l.blocks, b, sums);
  }
}

// The largest border of zeros that any of the convolutions needs.
inline int border_of(int count, const Convolution* convolutions) {
  int border = 0;
  for (int i = 0; i < count; i++)
    border = reach(convolutions[i]) > border ? reach(convolutions[i]) : border;
  return border;
}

// The image that is read after convolution `i` of image `n`; nothing if it is the same one, or none.
template <class T, int V>
Stream next_image(const Layout<T, V>& l, const void* values, bool is_short, int count,
                  const Convolution* convolutions, int i, Index n) {
  const bool done = i + 1 == count;
  const Convolution& c = convolutions[done ? 0 : i + 1];
  if (done ? n + 1 == l.shape.images : c.reads == convolutions[i].reads) return {};
  const Index image = c.reads * l.shape.images + n + done;
  const Index pixels = l.shape.height * l.shape.width_px;
  return l.stream(l.stored_image(values, is_short, image, pixels), is_short);
}

// Outputs (count, N, OH, OW, width) of all convolutions, and their statistics (count, 2, width).
template <class T, int V>
void convolve(const Shape& shape, const void* values, const void* table, int count,
              const Convolution* convolutions, void* outputs, double* statistics) {
  using v = typename VectorOf<T, V>::type;
  const Layout<T, V> l(shape, border_of(count, convolutions));
  std::vector<std::unique_ptr<Weights<T, V>>> weights;
  for (int i = 0; i < count; i++)
    weights.push_back(std::make_unique<Weights<T, V>>(convolutions[i], l, Pass::FORWARD));
  const Index chunk = l.chunk_rows() * shape.out_width;
  const Index stride = 2 * count * shape.width, in = shape.height * shape.width_px;
  const Index parts = parts_of(shape, l), part_rows = rows_of_part(shape, l);
  std::vector<double> sums(shape.images * parts * stride, 0.0);
  // Second stages read what first ones return, with its norm.
  const bool reads_short = table && shape.short_stages;
  struct Work {
    Buffer<v> plane, u, out;
  };
  const auto make = [&] {
    return std::unique_ptr<Work>(
        new Work{Buffer<v>(l.plane * l.blocks), Buffer<v>(chunk * l.blocks),
                 Buffer<v>(shape.short_stages ? chunk * l.blocks : 0)});
  };
  for_each_part(shape, l, make, [&](Work& work, Index n, Index first, Index last) {
    double* of_part = sums.data() + (n * parts + first / part_rows) * stride;
    int filled = -1;
    for (int i = 0; i < count; i++) {
      const Convolution& c = convolutions[i];
      if (c.reads != filled) {
        const T* norm =
            table ? static_cast<const T*>(table) + c.reads * TABLE_ROWS * shape.width : nullptr;
        const void* image = l.stored_image(values, reads_short, c.reads * shape.images + n, in);
        with_stored<T, V>(reads_short, image, [&](auto x) {
          fill_plane(l, x, norm, first * c.stride - l.border, last * c.stride + l.border,
                     work.plane.get());
        });
        filled = c.reads;
      }
      void* z = const_cast<char*>(
          l.stored_image(outputs, shape.short_stages, i * shape.images + n, l.pixels_out));
      convolve_image(l, c, *weights[i], work.plane.get(), work.u.get(), work.out.get(), chunk,
                     first, last, next_image(l, values, reads_short, count, convolutions, i, n), z,
                     of_part + 2 * i * shape.width);
    }
  });
  const double pixels = static_cast<double>(shape.images * l.pixels_out);
  for (int i = 0; i < count; i++)
    Moments<T, V>::finish(sums.data() + 2 * i * shape.width, shape.images * parts, stride,
                          shape.width, pixels, statistics + 2 * i * shape.width);
}

}  // namespace hwnas
