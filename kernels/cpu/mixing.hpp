// The weighted sum of normalised values, and the sums of its backward pass.
#pragma once

#include "packing.hpp"

namespace hwnas {

template <class T, int V>
void mix(const Shape& shape, int count, const MixTerm* terms, void* outputs) {
  using v = typename VectorOf<T, V>::type;
  const Index blocks = shape.width / V, pixels = shape.out_height * shape.out_width;
  Buffer<v> scale(count * blocks), mean(count * blocks), shift(blocks);
  for (int k = 0; k < count; k++)
    for (Index b = 0; b < blocks; b++) {
      const v* row = static_cast<const v*>(terms[k].row);
      const v weight = broadcast<v>(static_cast<T>(terms[k].weight));
      scale[b * count + k] = weight * v(row[SCALE * blocks + b]);
      mean[b * count + k] = row[MEAN * blocks + b];
      shift[b] += weight * v(row[SHIFT * blocks + b]);
    }
#pragma omp parallel for schedule(static) num_threads(shape.threads)
  for (Index n = 0; n < shape.images; n++)
    for (Index b = 0; b < blocks; b++) {
      const Index at = n * pixels * blocks + b;
      v* out = static_cast<v*>(outputs) + at;
      constexpr Index P = 8;
      for (Index p = 0; p < pixels; p += P) {
        const Index there = p + P <= pixels ? P : pixels - p;
        v sum[P];
        for (Index i = 0; i < P; i++) sum[i] = shift[b];
        for (int k = 0; k < count; k++) {
          const v* z = static_cast<const v*>(terms[k].value) + at + p * blocks;
          const v a = scale[b * count + k], m = mean[b * count + k];
          if (there == P) {
            UNROLL for (Index i = 0; i < P; i++) sum[i] += a * (v(z[i * blocks]) - m);
          } else {
            for (Index i = 0; i < there; i++) sum[i] += a * (v(z[i * blocks]) - m);
          }
        }
        for (Index i = 0; i < there; i++) out[(p + i) * blocks] = sum[i];
      }
    }
}

// S and T of one term and one image, added to `sums` (2, width); S only if `with_s`.
template <class T, int V>
void reduce_image(const ReduceTerm& term, Index at, Index pixels, Index blocks, bool with_s,
                  double* sums) {
  using v = typename VectorOf<T, V>::type;
  constexpr Index CHUNK = 128;
  for (Index b = 0; b < blocks; b++) {
    const v mean = static_cast<const v*>(term.row)[MEAN * blocks + b];
    const v* g = static_cast<const v*>(term.gradient) + at + b;
    const v* z = static_cast<const v*>(term.value) + at + b;
    for (Index first = 0; first < pixels; first += CHUNK) {
      const Index last = first + CHUNK < pixels ? first + CHUNK : pixels;
      v s[4] = {}, t[4] = {};
      Index p = first;
      for (; p + 4 <= last; p += 4)
        UNROLL for (int i = 0; i < 4; i++) {
          const v gradient = g[(p + i) * blocks];
          t[i] += gradient * (v(z[(p + i) * blocks]) - mean);
          if (with_s) s[i] += gradient;
        }
      for (; p < last; p++) {
        const v gradient = g[p * blocks];
        t[0] += gradient * (v(z[p * blocks]) - mean);
        if (with_s) s[0] += gradient;
      }
      const v total_s = (s[0] + s[1]) + (s[2] + s[3]), total_t = (t[0] + t[1]) + (t[2] + t[3]);
      for (int lane = 0; lane < V; lane++) {
        sums[b * V + lane] += total_s[lane];
        sums[(blocks + b) * V + lane] += total_t[lane];
      }
    }
  }
}

template <class T, int V>
void reduce(const Shape& shape, int count, const ReduceTerm* terms, double* sums) {
  const Index blocks = shape.width / V, pixels = shape.out_height * shape.out_width;
  const Index stride = 2 * count * shape.width;
  // S is the same for all terms of one gradient.
  std::vector<int> same(count);
  for (int k = 0; k < count; k++)
    for (same[k] = 0; terms[same[k]].gradient != terms[k].gradient;) same[k]++;
  std::vector<double> of_image(shape.images * stride, 0.0);
#pragma omp parallel for schedule(static) num_threads(shape.threads)
  for (Index n = 0; n < shape.images; n++)
    for (int k = 0; k < count; k++)
      reduce_image<T, V>(terms[k], n * pixels * blocks, pixels, blocks, same[k] == k,
                         of_image.data() + n * stride + 2 * k * shape.width);
  for (int k = 0; k < count; k++)
    for (Index c = 0; c < shape.width; c++) {
      double s = 0, t = 0;
      for (Index n = 0; n < shape.images; n++) {
        s += of_image[n * stride + 2 * same[k] * shape.width + c];
        t += of_image[n * stride + (2 * k + 1) * shape.width + c];
      }
      sums[2 * k * shape.width + c] = s;
      sums[(2 * k + 1) * shape.width + c] = t;
    }
}

}  // namespace hwnas
