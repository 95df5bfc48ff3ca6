// Batch norms of tensors that no kernel computed: their statistics, and their backward pass.
#pragma once

#include "forward.hpp"

namespace hwnas {

// Statistics (count, 2, width) of tensors (N, OH, OW, width).
template <class T, int V>
void statistics(const Shape& shape, int count, const void* const* values, double* out) {
  const Layout<T, V> l(shape, 0);
  const Index rows_max = l.chunk_rows(), wide = shape.out_width, stride = 2 * count * shape.width;
  const Index parts = parts_of(shape, l), part_rows = rows_of_part(shape, l);
  std::vector<double> sums(shape.images * parts * stride, 0.0);
  for_each_part(shape, l, no_work, [&](Nothing&, Index n, Index first, Index last) {
    double* of_part = sums.data() + (n * parts + first / part_rows) * stride;
    for (int k = 0; k < count; k++)
      for (Index h = first; h < last; h += rows_max) {
        const Index rows = h + rows_max <= last ? rows_max : last - h;
        const auto* z = l.image(values[k], n, l.pixels_out) + h * wide * l.blocks;
        for (Index b = 0; b < l.blocks; b++)
          Moments<T, V>::add(z + b, rows * wide, l.blocks, l.blocks, b,
                             of_part + 2 * k * shape.width);
      }
  });
  const double pixels = static_cast<double>(shape.images * l.pixels_out);
  for (int k = 0; k < count; k++)
    Moments<T, V>::finish(sums.data() + 2 * k * shape.width, shape.images * parts, stride,
                          shape.width, pixels, out + 2 * k * shape.width);
}

// dz_k = a_k g + b_k (z_k - mean_k) + d_k, concatenated in `out`, (count, N, OH, OW, width).
template <class T, int V>
void apply(const Shape& shape, int count, const ReduceTerm* terms, const void* coefficients,
           void* out) {
  using v = typename VectorOf<T, V>::type;
  const Layout<T, V> l(shape, 0);
  const Index blocks = l.blocks, image = l.pixels_out * blocks;
  for_each_part(shape, l, no_work, [&](Nothing&, Index n, Index first, Index last) {
    const Index begin = first * shape.out_width * blocks, end = last * shape.out_width * blocks;
    for (int k = 0; k < count; k++) {
      const v* c = static_cast<const v*>(coefficients) + 3 * k * blocks;
      const v* mean = static_cast<const v*>(terms[k].row) + MEAN * blocks;
      const v* g = static_cast<const v*>(terms[k].gradient) + n * image;
      const v* z = static_cast<const v*>(terms[k].value.data) + n * image;
      v* dz = static_cast<v*>(out) + (k * shape.images + n) * image;
      for (Index p = begin; p < end; p += blocks)
        for (Index b = 0; b < blocks; b++)
          dz[p + b] = c[b] * g[p + b] + (c[blocks + b] * (z[p + b] - mean[b]) + c[2 * blocks + b]);
    }
  });
}

}  // namespace hwnas
