// Conversion of weights from PyTorch's layout to vectors and of their gradients back, and of the
// values that a stage reads to planes.
#pragma once

#include <vector>

#include "interface.h"
#include "pointwise.hpp"
#include "vectors.hpp"

namespace hwnas {

// Sizes of activations, as vectors, and of planes: [block][row][column] with a border of zeros.
template <class T, int V>
struct Layout {
  using v = typename VectorOf<T, V>::type;

  explicit Layout(const Shape& s, int border)
      : shape(s),
        blocks(s.width / V),
        channels(static_cast<int>(s.channels)),
        border(border),
        row(s.width_px + 2 * border),
        plane((s.height + 2 * border) * row),
        pixels_out(s.out_height * s.out_width) {}

  // Index of pixel (0, 0) in a block of a plane.
  Index origin() const { return border * row + border; }
  // Output rows of a chunk, which is small enough for the first-level cache.
  Index chunk_rows() const {
    const Index wanted = blocks == 1 ? 96 : 48;
    const Index rows = wanted / shape.out_width;
    return rows < 1 ? 1 : rows < shape.out_height ? rows : shape.out_height;
  }
  const v* image(const void* tensor, Index n, Index pixels) const {
    return static_cast<const v*>(tensor) + n * pixels * blocks;
  }
  // Bytes of a vector of a tensor, which may be stored in bfloat16 (`is_short`).
  Index stored_bytes(bool is_short) const { return is_short ? sizeof(v) / 2 : sizeof(v); }
  // `image` for such a tensor.
  const char* stored_image(const void* tensor, bool is_short, Index n, Index pixels) const {
    return static_cast<const char*>(tensor) + n * pixels * blocks * stored_bytes(is_short);
  }
  // The vectors of such a tensor from address `at` on, to be prefetched.
  Stream stream(const void* at, bool is_short = false) const {
    return {static_cast<const char*>(at), blocks * stored_bytes(is_short), stored_bytes(is_short)};
  }

  const Shape& shape;
  const Index blocks;
  const int channels;
  const int border;
  const Index row, plane, pixels_out;
};

// Parts of the work on an image that keep all threads busy where images are few.
inline Index wanted_parts(const Shape& shape) {
  return shape.images < shape.threads ? (shape.threads - 1) / shape.images + 1 : 1;
}

// Parts that an image is divided into, so that there is work for all threads where images are few.
// A part has whole chunks of rows; chunks and their order do not depend on the number of threads.
template <class T, int V>
Index parts_of(const Shape& shape, const Layout<T, V>& l) {
  const Index chunks = (shape.out_height + l.chunk_rows() - 1) / l.chunk_rows();
  return std::min(wanted_parts(shape), chunks);
}

template <class T, int V>
Index rows_of_part(const Shape& shape, const Layout<T, V>& l) {
  const Index rows = l.chunk_rows(), chunks = (shape.out_height + rows - 1) / rows;
  const Index parts = parts_of(shape, l);
  return (chunks + parts - 1) / parts * rows;
}

// Calls `f(work, n, first, last)` for rows first ... last - 1 of each part of each image n, with a
// `work` for each thread, as `for_each`.
template <class T, int V, class Make, class F>
void for_each_part(const Shape& shape, const Layout<T, V>& l, Make make, F f) {
  const Index parts = parts_of(shape, l), rows = rows_of_part(shape, l);
  for_each(shape.threads, shape.images * parts, make, [&](auto& work, Index i) {
    const Index first = i % parts * rows, last = first + rows;
    f(work, i / parts, first, last < shape.out_height ? last : shape.out_height);
  });
}

// Width of the border of zeros that a convolution reads.
inline int reach(const Convolution& c) {
  return c.kind == FACTORIZED ? 1 : c.kernel / 2 * c.dilation;
}

// Number of matrices of a convolution; the depthwise part of a separable one does not count.
inline int taps_of(const Convolution& c) {
  return c.kind == SEPARABLE ? 1 : c.kind == FACTORIZED ? 2 : c.kernel * c.kernel;
}

// What a pass reads of the weights of a convolution.
enum class Pass { FORWARD, BACKWARD };

// The weights of one convolution, for one pass. `matrix` is [tap][channel in][block of channels out]
// in the forward pass, and transposed in the backward pass: [tap][channel out][block of channels in].
// `depthwise` is [block][tap], and `flipped`, for the backward pass, has the same taps in reverse
// order.
template <class T, int V>
struct Weights {
  using v = typename VectorOf<T, V>::type;

  Weights(const Convolution& c, const Layout<T, V>& l, Pass pass)
      : matrix(taps_of(c) * l.channels * l.blocks),
        depthwise(c.kind == SEPARABLE ? l.blocks * c.kernel * c.kernel : 0),
        flipped(c.kind == SEPARABLE && pass == Pass::BACKWARD ? l.blocks * c.kernel * c.kernel : 0) {
    const bool backward = pass == Pass::BACKWARD;
    const int channels = l.channels;
    T* to = reinterpret_cast<T*>(matrix.get());
    for (int t = 0; t < taps_of(c); t++)
      for (int row = 0; row < channels; row++, to += l.shape.width)
        for (int column = 0; column < channels; column++)
          to[column] = backward ? element(c, channels, t, row, column)
                                : element(c, channels, t, column, row);
    if (c.kind != SEPARABLE) return;
    const int size = c.kernel * c.kernel;
    const T* w = static_cast<const T*>(c.first);
    for (int channel = 0; channel < channels; channel++)
      for (int t = 0; t < size; t++) {
        at(depthwise, channel / V * size + t, channel % V) = w[channel * size + t];
        if (backward)
          at(flipped, channel / V * size + size - 1 - t, channel % V) = w[channel * size + t];
      }
  }

  static T element(const Convolution& c, int channels, int tap, int out, int in) {
    const T* w = static_cast<const T*>(c.kind == SEPARABLE ? c.second : c.first);
    if (c.kind == SEPARABLE) return w[out * channels + in];
    if (c.kind == DENSE)
      return w[(static_cast<Index>(out) * channels + in) * taps_of(c) + tap];
    const int half = channels / 2;
    if ((out < half) != (tap == 0)) return T(0);
    return tap == 0 ? w[out * channels + in]
                    : static_cast<const T*>(c.second)[(out - half) * channels + in];
  }

  static T& at(Buffer<v>& buffer, Index vectors, int lane) {
    return reinterpret_cast<T*>(buffer.get() + vectors)[lane];
  }

  Buffer<v> matrix, depthwise, flipped;
};

// Gradients of the weights of one convolution, as far as they are needed, in the layout of
// `Weights` for the forward pass, but with rows for the channels that pad the layout too.
template <class T, int V>
struct WeightSums {
  using v = typename VectorOf<T, V>::type;

  WeightSums(const Convolution& c, const Layout<T, V>& l)
      : matrix(needs_matrix(c) ? taps_of(c) * l.shape.width * l.blocks : 0),
        depthwise(c.kind == SEPARABLE && c.first_gradient ? l.blocks * c.kernel * c.kernel : 0) {}

  static bool needs_matrix(const Convolution& c) {
    return c.second_gradient || (c.kind != SEPARABLE && c.first_gradient);
  }
  void finish_part() { matrix.finish_part(), depthwise.finish_part(); }
  void add_total(WeightSums& other) {
    matrix.add_total(other.matrix), depthwise.add_total(other.depthwise);
  }
  // Writes the gradients in PyTorch's layout.
  void store(const Convolution& c, const Layout<T, V>& l) {
    const int channels = l.channels, taps = taps_of(c), half = channels / 2;
    T* first = static_cast<T*>(c.first_gradient);
    T* second = static_cast<T*>(c.second_gradient);
    const T* d = reinterpret_cast<const T*>(matrix.total.get());
    const Index width = l.shape.width;
    auto element = [&](int t, int out, int in) { return d[(t * width + in) * width + out]; };
    for (int out = 0; out < channels; out++)
      for (int in = 0; in < channels; in++) {
        const Index i = static_cast<Index>(out) * channels + in;
        if (c.kind == SEPARABLE && second) second[i] = element(0, out, in);
        if (c.kind == DENSE && first)
          for (int t = 0; t < taps; t++) first[i * taps + t] = element(t, out, in);
        if (c.kind == FACTORIZED && out < half && first) first[i] = element(0, out, in);
        if (c.kind == FACTORIZED && out >= half && second)
          second[i - static_cast<Index>(half) * channels] = element(1, out, in);
      }
    if (c.kind != SEPARABLE || !first) return;
    const int size = c.kernel * c.kernel;
    const T* kernel = reinterpret_cast<const T*>(depthwise.total.get());
    for (int channel = 0; channel < channels; channel++)
      for (int t = 0; t < size; t++)
        first[channel * size + t] = kernel[(channel / V * size + t) * V + channel % V];
  }

  PartSums<v> matrix, depthwise;
};

// Writes the rectified values of rows first ... last - 1 of an image to a plane; `norm` is a table
// row or NULL. Rows outside the image are left out.
template <class T, int V, class X>
void fill_plane(const Layout<T, V>& l, X x, const T* norm, Index first, Index last,
                typename VectorOf<T, V>::type* plane) {
  using v = typename VectorOf<T, V>::type;
  if (first < 0) first = 0;
  if (last > l.shape.height) last = l.shape.height;
  for (Index b = 0; b < l.blocks; b++) {
    const v* rows = reinterpret_cast<const v*>(norm);
    const v mean = norm ? v(rows[MEAN * l.blocks + b]) : v{};
    const v scale = norm ? v(rows[SCALE * l.blocks + b]) : v{};
    const v shift = norm ? v(rows[SHIFT * l.blocks + b]) : v{};
    for (Index h = first; h < last; h++) {
      const X from = x.from(h * l.shape.width_px * l.blocks + b);
      v* to = plane + b * l.plane + l.origin() + h * l.row;
      fetch_ahead(from.data + ROWS_AHEAD * l.shape.width_px * l.blocks, l.blocks, l.shape.width_px);
      if (norm)
        for (Index w = 0; w < l.shape.width_px; w++)
          to[w] = rectified<v>(scale * (from[w * l.blocks] - mean) + shift);
      else
        for (Index w = 0; w < l.shape.width_px; w++) to[w] = rectified<v>(from[w * l.blocks]);
    }
  }
}

// The positions that the taps of a convolution read for output row `h`.
template <class T, int V>
Taps<typename VectorOf<T, V>::type> taps_at(const Layout<T, V>& l, const Convolution& c, Index h,
                                            const typename VectorOf<T, V>::type* plane) {
  Taps<typename VectorOf<T, V>::type> taps;
  taps.count = taps_of(c);
  taps.block = l.plane;
  const int radius = c.kernel / 2;
  for (int t = 0; t < taps.count; t++) {
    const int down = c.kind == FACTORIZED ? t : t / c.kernel - radius;
    const int right = c.kind == FACTORIZED ? t : t % c.kernel - radius;
    taps.at[t] = plane + l.origin() + (h * c.stride + down) * l.row + right;
  }
  return taps;
}

}  // namespace hwnas
