// The weighted sum of normalised values, and the sums S and T of its backward pass.
#pragma once

#include <memory>
#include <vector>

#include "pools.hpp"

namespace hwnas {

// Reads chunks of pixels of tensors, and of pools that are computed chunk by chunk.
template <class T, int V>
class ValueReader {
 public:
  using v = typename VectorOf<T, V>::type;

  // `values[k]` is the value of term k.
  ValueReader(const Shape& shape, Index blocks, Index chunk, const std::vector<Value>& values)
      : shape_(shape), blocks_(blocks) {
    for (const Value& value : values) {
      if (value.kind == TENSOR || value.kind == SHORT_TENSOR) {
        places_.push_back({value.data, blocks, 1, value.kind == SHORT_TENSOR});
        continue;
      }
      std::size_t i = 0;
      while (i < pooled_.size() &&
             (pooled_[i].data != value.data || pooled_[i].stride != value.stride))
        i++;
      if (i == pooled_.size()) {
        pooled_.push_back(value);
        rows_.push_back(std::make_unique<PooledRows<T, V>>(value.height, value.width_px,
                                                           value.stride, blocks, chunk));
      }
      places_.push_back({rows_[i]->of(value.kind), 1, chunk, false, true});
    }
  }
  // Moves to rows first ... first + rows - 1 of image n.
  void move_to(Index n, Index first, Index rows) {
    at_ = (n * shape_.out_height + first) * shape_.out_width * blocks_;
    for (std::size_t i = 0; i < pooled_.size(); i++) {
      const Index image = pooled_[i].height * pooled_[i].width_px * blocks_;
      rows_[i]->fill(static_cast<const v*>(pooled_[i].data) + n * image, first, rows);
    }
  }
  // Calls `f(z, step)` with the first pixel of term k in block b; the next is `step` vectors on.
  template <class F>
  INLINE void with_pixels(int k, Index b, F f) const {
    const Place& place = places_[k];
    with_stored<T, V>(place.is_short, place.data, [&](auto z) INLINED {
      f(z.from((place.is_pool ? 0 : at_) + b * place.block), place.step);
    });
  }

 private:
  // Where the pixels of a term are, and the vectors between pixels and between blocks of channels.
  struct Place {
    const void* data;
    Index step, block;
    bool is_short, is_pool = false;
  };

  const Shape& shape_;
  const Index blocks_;
  Index at_ = 0;
  std::vector<Place> places_;
  std::vector<Value> pooled_;
  std::vector<std::unique_ptr<PooledRows<T, V>>> rows_;
};

// Calls `f(reader, n, h, pixels)` for all chunks of all images: `pixels` from row h of image n on.
template <class T, int V, class F>
void for_each_chunk(const Shape& shape, const Layout<T, V>& l, const std::vector<Value>& values,
                    F f) {
  const Index rows_max = l.chunk_rows(), wide = shape.out_width;
  const auto make = [&] {
    return std::make_unique<ValueReader<T, V>>(shape, l.blocks, rows_max * wide, values);
  };
  for_each_part(shape, l, make, [&](ValueReader<T, V>& reader, Index n, Index first, Index last) {
    for (Index h = first; h < last; h += rows_max) {
      const Index rows = h + rows_max <= last ? rows_max : last - h;
      reader.move_to(n, h, rows);
      f(reader, n, h, rows * wide);
    }
  });
}

// `shift + sum_k scale_k (z_k - mean_k)` for P pixels of one block.
template <int P, class T, int V, class v>
INLINE void mix_pixels(const ValueReader<T, V>& values, int count, Index b, Index p, const v* scale,
                       const v* mean, v shift, v* out, Index step) {
  v sum[P];
  UNROLL for (int i = 0; i < P; i++) sum[i] = shift;
  for (int k = 0; k < count; k++) {
    const v a = scale[k], m = mean[k];
    values.with_pixels(k, b, [&](auto z, Index apart) INLINED {
      if constexpr (P > 1) fetch_ahead(z.data + (p + PIXELS_AHEAD) * apart, apart, P);
      UNROLL for (int i = 0; i < P; i++) sum[i] += a * (z[(p + i) * apart] - m);
    });
  }
  UNROLL for (int i = 0; i < P; i++) out[i * step] = sum[i];
}

// The weighted sum of all terms, (N, OH, OW, width).
template <class T, int V>
void mix(const Shape& shape, int count, const MixTerm* terms, void* outputs) {
  using v = typename VectorOf<T, V>::type;
  const Layout<T, V> l(shape, 0);
  const Index blocks = l.blocks, wide = shape.out_width;
  Buffer<v> scale(count * blocks), mean(count * blocks), shift(blocks);
  std::vector<Value> values;
  for (int k = 0; k < count; k++) {
    values.push_back(terms[k].value);
    const v* row = static_cast<const v*>(terms[k].row);
    const v weight = broadcast<v>(static_cast<T>(terms[k].weight));
    for (Index b = 0; b < blocks; b++) {
      scale[b * count + k] = weight * row[SCALE * blocks + b];
      mean[b * count + k] = row[MEAN * blocks + b];
      shift[b] += weight * row[SHIFT * blocks + b];
    }
  }
  for_each_chunk<T, V>(shape, l, values, [&](const auto& reader, Index n, Index h, Index pixels) {
    for (Index b = 0; b < blocks; b++) {
      const v* a = scale.get() + b * count;
      const v* m = mean.get() + b * count;
      v* out = static_cast<v*>(outputs) + (n * l.pixels_out + h * wide) * blocks + b;
      Index p = 0;
      for (; p + 8 <= pixels; p += 8)
        mix_pixels<8>(reader, count, b, p, a, m, shift[b], out + p * blocks, blocks);
      for (; p < pixels; p++)
        mix_pixels<1>(reader, count, b, p, a, m, shift[b], out + p * blocks, blocks);
    }
  });
}

// Adds S and T of one block of a chunk to `sums` (2, width); S only if `with_s`.
template <class T, int V, class Z>
INLINE void reduce_chunk(const typename VectorOf<T, V>::type* g, Z z, Index step, Index pixels,
                         Index blocks, Index b, typename VectorOf<T, V>::type mean, bool with_s,
                         double* sums) {
  using v = typename VectorOf<T, V>::type;
  v s[4] = {}, t[4] = {};
  Index p = 0;
  for (; p + 4 <= pixels; p += 4) {
    fetch_ahead(z.data + (p + PIXELS_AHEAD) * step, step, 4);
    if (with_s) fetch_ahead(g + (p + PIXELS_AHEAD) * blocks, blocks, 4);
    UNROLL for (int i = 0; i < 4; i++) {
      const v gradient = g[(p + i) * blocks];
      t[i] += gradient * (z[(p + i) * step] - mean);
      if (with_s) s[i] += gradient;
    }
  }
  for (; p < pixels; p++) {
    t[0] += g[p * blocks] * (z[p * step] - mean);
    if (with_s) s[0] += g[p * blocks];
  }
  const v total_s = (s[0] + s[1]) + (s[2] + s[3]), total_t = (t[0] + t[1]) + (t[2] + t[3]);
  for (int lane = 0; lane < V; lane++) {
    if (with_s) sums[b * V + lane] += total_s[lane];
    sums[(blocks + b) * V + lane] += total_t[lane];
  }
}

// S and T of all terms, (count, 2, width).
template <class T, int V>
void reduce(const Shape& shape, int count, const ReduceTerm* terms, double* sums) {
  using v = typename VectorOf<T, V>::type;
  const Layout<T, V> l(shape, 0);
  const Index blocks = l.blocks, wide = shape.out_width;
  const Index stride = 2 * count * shape.width;
  // Terms with the same gradient have the same S, which only the first of them computes.
  std::vector<int> same(count);
  std::vector<Value> values;
  for (int k = 0; k < count; k++) {
    values.push_back(terms[k].value);
    for (same[k] = 0; terms[same[k]].gradient != terms[k].gradient;) same[k]++;
  }
  const Index parts = parts_of(shape, l);
  std::vector<double> of_part(shape.images * parts * stride, 0.0);
  for_each_chunk<T, V>(shape, l, values, [&](const auto& reader, Index n, Index h, Index pixels) {
    const Index part = n * parts + h / rows_of_part(shape, l);
    for (int k = 0; k < count; k++)
      for (Index b = 0; b < blocks; b++)
        reader.with_pixels(k, b, [&](auto z, Index step) INLINED {
          reduce_chunk<T, V>(l.image(terms[k].gradient, n, l.pixels_out) + h * wide * blocks + b, z,
                             step, pixels, blocks, b,
                             static_cast<const v*>(terms[k].row)[MEAN * blocks + b], same[k] == k,
                             of_part.data() + part * stride + 2 * k * shape.width);
        });
  });
  for (int k = 0; k < count; k++)
    for (Index c = 0; c < shape.width; c++) {
      double s = 0, t = 0;
      for (Index n = 0; n < shape.images * parts; n++) {
        s += of_part[n * stride + 2 * same[k] * shape.width + c];
        t += of_part[n * stride + (2 * k + 1) * shape.width + c];
      }
      sums[2 * k * shape.width + c] = s;
      sums[(2 * k + 1) * shape.width + c] = t;
    }
}

}  // namespace hwnas
