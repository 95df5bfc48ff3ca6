// 3x3 pools with a border of one pixel, and the way back to the state that they read.
#pragma once

#include <limits>

#include "forward.hpp"

namespace hwnas {

INLINE double window(Index h, Index w, Index height, Index width) {
  return static_cast<double>((1 + (h > 0) + (h < height - 1)) * (1 + (w > 0) + (w < width - 1)));
}

// One row of maxima and means, [block][column] with the block's stride `wide`.
template <class T, int V>
void pooled_row(const Layout<T, V>& l, const typename VectorOf<T, V>::type* x, Index h_out,
                int stride, typename VectorOf<T, V>::type* columns,
                typename VectorOf<T, V>::type* maximum, typename VectorOf<T, V>::type* mean) {
  using v = typename VectorOf<T, V>::type;
  const Index height = l.shape.height, width = l.shape.width_px, wide = l.shape.out_width;
  const Index h = h_out * stride, top = h > 0 ? h - 1 : h, bottom = h + 1 < height ? h + 1 : h;
  const v lowest = broadcast<v>(std::numeric_limits<T>::lowest());
  v* largest_of = columns + 1;
  v* sum_of = columns + width + 3;
  largest_of[-1] = largest_of[width] = lowest;
  sum_of[-1] = sum_of[width] = v{};
  for (Index b = 0; b < l.blocks; b++) {
    for (Index w = 0; w < width; w++) {
      v m = x[(top * width + w) * l.blocks + b], s = m;
      for (Index i = top + 1; i <= bottom; i++) {
        const v value = x[(i * width + w) * l.blocks + b];
        m = largest<v>(m, value), s += value;
      }
      largest_of[w] = m, sum_of[w] = s;
    }
    for (Index p = 0; p < wide; p++) {
      const Index w = p * stride;
      maximum[b * wide + p] =
          largest<v>(largest<v>(largest_of[w - 1], largest_of[w]), largest_of[w + 1]);
      const T share = static_cast<T>(1.0 / window(h, w, height, width));
      mean[b * wide + p] = (sum_of[w - 1] + sum_of[w] + sum_of[w + 1]) * broadcast<v>(share);
    }
  }
}

template <class T, int V>
void pools(const Shape& shape, const void* x, int stride, void* outputs, double* statistics) {
  using v = typename VectorOf<T, V>::type;
  const Layout<T, V> l(shape, 0);
  const Index in = shape.height * shape.width_px, wide = shape.out_width;
  const Index image_sums = 4 * shape.width;
  std::vector<double> sums(shape.images * image_sums, 0.0);
#pragma omp parallel num_threads(shape.threads)
  {
    Buffer<v> columns(2 * (shape.width_px + 2)), rows(2 * wide * l.blocks);
#pragma omp for schedule(static)
    for (Index n = 0; n < shape.images; n++)
      for (Index h = 0; h < shape.out_height; h++) {
        v* maximum = rows.get();
        v* mean = maximum + wide * l.blocks;
        pooled_row(l, l.image(x, n, in), h, stride, columns.get(), maximum, mean);
        for (int kind = 0; kind < 2; kind++) {
          v* out = const_cast<v*>(l.image(outputs, kind * shape.images + n, l.pixels_out)) +
                   h * wide * l.blocks;
          const v* from = kind == 0 ? maximum : mean;
          for (Index b = 0; b < l.blocks; b++)
            for (Index p = 0; p < wide; p++) out[p * l.blocks + b] = from[b * wide + p];
          Moments<T, V>::add(out, wide, l.blocks,
                             sums.data() + n * image_sums + 2 * kind * shape.width);
        }
      }
  }
  const double pixels = static_cast<double>(shape.images * l.pixels_out);
  for (int kind = 0; kind < 2; kind++)
    Moments<T, V>::finish(sums.data() + 2 * kind * shape.width, shape.images, image_sums,
                          shape.width, pixels, statistics + 2 * kind * shape.width);
}

// Gradients by one pixel's pools, summed over the edges: first the maximum's, then the mean's.
template <class T, int V>
struct PoolEdges {
  using v = typename VectorOf<T, V>::type;

  static INLINE v term(const void* coefficients, const void* row, Index blocks, Index b, v g,
                       v value) {
    const v* k = static_cast<const v*>(coefficients);
    const v* norm = static_cast<const v*>(row);
    return v(k[b]) * g + (v(k[blocks + b]) * (value - v(norm[MEAN * blocks + b])) +
                          v(k[2 * blocks + b]));
  }
};

// Adds what one output pixel hands back to the nine of its window, in block b of a plane.
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
  auto at = maximum > maximum;  // lanes of integers: which pixel is largest
  at ^= at;
  auto pixel = at;
  for (Index i = top; i <= bottom; i++)
    for (Index j = left; j <= right; j++) {
      const v value = x[(i * width + j) * l.blocks + b];
      const auto larger = value > maximum;
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
      by_maximum += PoolEdges<T, V>::term(list[e].maximum, list[e].maximum_row, l.blocks, b, g,
                                          maximum);
    if (list[e].mean)
      by_mean += PoolEdges<T, V>::term(list[e].mean, list[e].mean_row, l.blocks, b, g, mean);
  }
  by_mean *= share;
  pixel ^= pixel;
  for (Index i = top; i <= bottom; i++)
    for (Index j = left; j <= right; j++) {
      plane[i * width + j] += by_mean + (at == pixel ? by_maximum : v{});
      pixel += 1;
    }
}

template <class T, int V>
void pools_backward(const Shape& shape, const void* x, int stride, int edges,
                    const PoolGradient* list, void* dx) {
  using v = typename VectorOf<T, V>::type;
  const Layout<T, V> l(shape, 0);
  const Index in = shape.height * shape.width_px;
  bool any = false;
  for (int e = 0; e < edges; e++) any = any || list[e].maximum || list[e].mean;
#pragma omp parallel num_threads(shape.threads)
  {
    Buffer<v> plane(in);
#pragma omp for schedule(static)
    for (Index n = 0; n < shape.images; n++)
      for (Index b = 0; b < l.blocks; b++) {
        std::memset(static_cast<void*>(plane.get()), 0, in * sizeof(v));
        for (Index h = 0; any && h < shape.out_height; h++)
          for (Index w = 0; w < shape.out_width; w++)
            pool_pixel(l, l.image(x, n, in), n, h, w, b, stride, edges, list, plane.get());
        for (int e = 0; e < edges; e++) {
          if (!list[e].identity) continue;
          const v a = static_cast<const v*>(list[e].identity)[b];
          const v* g = l.image(list[e].gradient, n, in) + b;
          for (Index p = 0; p < in; p++) plane[p] += a * v(g[p * l.blocks]);
        }
        v* to = const_cast<v*>(l.image(dx, n, in)) + b;
        for (Index p = 0; p < in; p++) to[p * l.blocks] = v(to[p * l.blocks]) + plane[p];
      }
  }
}

}  // namespace hwnas
