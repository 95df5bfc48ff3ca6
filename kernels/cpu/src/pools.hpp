// 3x3 pools with padding 1, forward and backward.
#pragma once

#include <limits>

#include "forward.hpp"

namespace hwnas {

// Number of pixels of the window around (h, w) that are inside the image.
INLINE double window(Index h, Index w, Index height, Index width) {
  return static_cast<double>((1 + (h > 0) + (h < height - 1)) * (1 + (w > 0) + (w < width - 1)));
}

// Maxima and means of 3x3 windows, a few rows at a time.
template <class T, int V>
class PooledRows {
 public:
  using v = typename VectorOf<T, V>::type;

  // `chunk` is the largest number of output pixels.
  PooledRows(Index height, Index width, int stride, Index blocks, Index chunk)
      : height_(height),
        width_(width),
        wide_((width + stride - 1) / stride),
        blocks_(blocks),
        chunk_(chunk),
        stride_(stride),
        columns_(2 * (width + 2)),
        maximum_(chunk * blocks),
        mean_(chunk * blocks) {}

  // Computes rows first ... first + rows - 1 of the pools of one image.
  void fill(const v* x, Index first, Index rows) {
    for (Index r = 0; r < rows; r++)
      for (Index b = 0; b < blocks_; b++) row(x + b, first + r, b * chunk_ + r * wide_);
  }
  // Maxima or means, [block][pixel], with `chunk` vectors from one block to the next.
  const v* of(int kind) { return kind == MAXIMUM ? maximum_.get() : mean_.get(); }

 private:
  void row(const v* x, Index h_out, Index at) {
    const Index h = h_out * stride_, top = h > 0 ? h - 1 : h;
    const Index bottom = h + 1 < height_ ? h + 1 : h;
    v* largest_of = columns_.get() + 1;
    v* sum_of = columns_.get() + width_ + 3;
    largest_of[-1] = largest_of[width_] = broadcast<v>(std::numeric_limits<T>::lowest());
    sum_of[-1] = sum_of[width_] = v{};
    fetch_ahead(x + (bottom + ROWS_AHEAD) * width_ * blocks_, blocks_, width_);
    for (Index w = 0; w < width_; w++) {
      v m = x[(top * width_ + w) * blocks_], s = m;
      for (Index i = top + 1; i <= bottom; i++) {
        const v value = x[(i * width_ + w) * blocks_];
        m = largest<v>(m, value), s += value;
      }
      largest_of[w] = m, sum_of[w] = s;
    }
    const T inside = static_cast<T>(1.0 / (3 * (1 + bottom - top)));
    for (Index p = 0; p < wide_; p++) {
      const Index w = p * stride_;
      maximum_[at + p] = largest<v>(largest<v>(largest_of[w - 1], largest_of[w]), largest_of[w + 1]);
      const bool edge = w == 0 || w == width_ - 1;
      const T share = edge ? static_cast<T>(1.0 / window(h, w, height_, width_)) : inside;
      mean_[at + p] = (sum_of[w - 1] + sum_of[w] + sum_of[w + 1]) * broadcast<v>(share);
    }
  }

  const Index height_, width_, wide_, blocks_, chunk_;
  const int stride_;
  Buffer<v> columns_, maximum_, mean_;
};

// Statistics (2, 2, width) of the pools of x.
template <class T, int V>
void pool_statistics(const Shape& shape, const void* x, int stride, double* statistics) {
  const Layout<T, V> l(shape, 0);
  const Index in = shape.height * shape.width_px, stride_of_part = 4 * shape.width;
  const Index rows_max = l.chunk_rows(), chunk = rows_max * shape.out_width;
  const Index parts = parts_of(shape, l), part_rows = rows_of_part(shape, l);
  std::vector<double> sums(shape.images * parts * stride_of_part, 0.0);
  const auto make = [&] {
    return std::make_unique<PooledRows<T, V>>(shape.height, shape.width_px, stride, l.blocks,
                                              chunk);
  };
  for_each_part(shape, l, make, [&](PooledRows<T, V>& pooled, Index n, Index first, Index last) {
    double* of_part = sums.data() + (n * parts + first / part_rows) * stride_of_part;
    for (Index h = first; h < last; h += rows_max) {
      const Index rows = h + rows_max <= last ? rows_max : last - h;
      pooled.fill(l.image(x, n, in), h, rows);
      for (int kind = 0; kind < 2; kind++)
        for (Index b = 0; b < l.blocks; b++)
          Moments<T, V>::add(pooled.of(kind == 0 ? MAXIMUM : MEAN_OF_WINDOW) + b * chunk,
                             rows * shape.out_width, 1, l.blocks, b,
                             of_part + 2 * kind * shape.width);
    }
  });
  const double pixels = static_cast<double>(shape.images * l.pixels_out);
  for (int kind = 0; kind < 2; kind++)
    Moments<T, V>::finish(sums.data() + 2 * kind * shape.width, shape.images * parts,
                          stride_of_part, shape.width, pixels, statistics + 2 * kind * shape.width);
}

// a g + b (value - mean) + d in block b of channels.
template <class v>
INLINE v term_gradient(const void* coefficients, const void* row, Index blocks, Index b, v g,
                       v value) {
  const v* k = static_cast<const v*>(coefficients);
  const v* norm = static_cast<const v*>(row);
  return k[b] * g + (k[blocks + b] * (value - norm[MEAN * blocks + b]) + k[2 * blocks + b]);
}

// Adds the gradients of one output pixel to the pixels of its window, in block b of a plane.
template <class T, int V>
INLINE void pool_pixel(const Layout<T, V>& l, const typename VectorOf<T, V>::type* x, Index n,
                       Index h_out, Index w_out, Index b, int stride, int edges,
                       const PoolGradient* list, typename VectorOf<T, V>::type* plane) {
  using v = typename VectorOf<T, V>::type;
  const Index height = l.shape.height, width = l.shape.width_px;
  const Index h = h_out * stride, w = w_out * stride;
  const Index top = h > 0 ? h - 1 : h, bottom = h + 1 < height ? h + 1 : h;
  const Index left = w > 0 ? w - 1 : w, right = w + 1 < width ? w + 1 : w;
  v maximum = x[(top * width + left) * l.blocks + b], sum{};
  auto at = maximum > maximum;  // integer lanes: the index of the largest pixel
  at ^= at;
  auto pixel = at;
  for (Index i = top; i <= bottom; i++)
    for (Index j = left; j <= right; j++) {
      const v value = x[(i * width + j) * l.blocks + b];
      const auto larger = (value > maximum) | (value != value);
      maximum = larger ? value : maximum;
      at = larger ? pixel : at;
      sum += value;
      pixel += 1;
    }
  const v share = broadcast<v>(static_cast<T>(1.0 / window(h, w, height, width)));
  const v mean = sum * share;
  v by_maximum{}, by_mean{};
  const Index out = (n * l.pixels_out + h_out * l.shape.out_width + w_out) * l.blocks + b;
  for (int e = 0; e < edges; e++) {
    const v g = static_cast<const typename VectorOf<T, V>::type*>(list[e].gradient)[out];
    if (list[e].maximum)
      by_maximum += term_gradient<v>(list[e].maximum, list[e].maximum_row, l.blocks, b, g,
                                          maximum);
    if (list[e].mean)
      by_mean += term_gradient<v>(list[e].mean, list[e].mean_row, l.blocks, b, g, mean);
  }
  by_mean *= share;
  pixel ^= pixel;
  for (Index i = top; i <= bottom; i++)
    for (Index j = left; j <= right; j++) {
      plane[i * width + j] += by_mean + (at == pixel ? by_maximum : v{});
      pixel += 1;
    }
}

// The gradient of one image from the pools and skip connections of all edges, as planes
// [block][pixel].
template <class T, int V>
void edges_backward(const Layout<T, V>& l, const typename VectorOf<T, V>::type* x, Index n,
                    int stride, int edges, const PoolGradient* list,
                    typename VectorOf<T, V>::type* planes) {
  using v = typename VectorOf<T, V>::type;
  const Index in = l.shape.height * l.shape.width_px;
  std::memset(static_cast<void*>(planes), 0, in * l.blocks * sizeof(v));
  bool any = false;
  for (int e = 0; e < edges; e++) any = any || list[e].maximum || list[e].mean;
  for (Index b = 0; b < l.blocks; b++) {
    v* plane = planes + b * in;
    for (Index h = 0; any && h < l.shape.out_height; h++)
      for (Index w = 0; w < l.shape.out_width; w++)
        pool_pixel(l, x, n, h, w, b, stride, edges, list, plane);
    for (int e = 0; e < edges; e++) {
      if (!list[e].identity) continue;
      const v a = static_cast<const v*>(list[e].identity)[b];
      const v* g = l.image(list[e].gradient, n, in) + b;
      for (Index p = 0; p < in; p++) plane[p] += a * g[p * l.blocks];
    }
  }
}

}  // namespace hwnas
