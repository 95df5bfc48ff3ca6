// Gradients of one stage of convolutions with respect to its values and weights.
#pragma once

#include "pools.hpp"

namespace hwnas {

// The buffers of one thread.
template <class T, int V>
struct BackwardWork {
  using v = typename VectorOf<T, V>::type;

  BackwardWork(const Layout<T, V>& l, Index chunk, bool needs_input, bool with_edges, int stride)
      : values(l.plane * l.blocks),
        d_values(needs_input ? l.plane * l.blocks : 0),
        d_depthwise(needs_input ? (l.shape.out_height + 2 * l.border) *
                                      (l.shape.out_width + 2 * l.border) * l.blocks
                                : 0),
        by_edges(with_edges ? l.shape.height * l.shape.width_px * l.blocks : 0),
        pools(l, stride),
        u(chunk * l.blocks),
        du(chunk * l.blocks),
        dz(chunk * l.blocks) {}

  Buffer<v> values;       // the rectified plane
  Buffer<v> d_values;     // its gradient, a plane
  Buffer<v> d_depthwise;  // gradient of the depthwise outputs, a plane of their size
  Buffer<v> by_edges;     // gradient from pools and skip connections
  PoolGradientRows<T, V> pools;  // its buffers
  Buffer<v> u, du, dz;    // chunks [block][pixel]
};

// dz = a g + b (z - mean) + d for some pixels, as [block][chunk].
template <class T, int V, class Z>
void normalised_gradient(const Layout<T, V>& l, const Convolution& c, Index first, Index pixels,
                         const typename VectorOf<T, V>::type* g, Z z,
                         typename VectorOf<T, V>::type* dz, Index chunk) {
  using v = typename VectorOf<T, V>::type;
  const v* coefficients = static_cast<const v*>(c.coefficients);
  const v* row = static_cast<const v*>(c.row);
  for (Index block = 0; block < l.blocks; block++) {
    const v a = coefficients[block], b = coefficients[l.blocks + block];
    const v d = coefficients[2 * l.blocks + block], mean = row[MEAN * l.blocks + block];
    const v* from_g = g + first * l.blocks + block;
    const Z from_z = z.from(first * l.blocks + block);
    for (Index p = 0; p < pixels; p++)
      dz[block * chunk + p] =
          a * v(from_g[p * l.blocks]) + (b * (from_z[p * l.blocks] - mean) + d);
  }
}

// Adds the gradient of the plane, from the gradient of the depthwise outputs of a whole image.
// `ahead` has a vector for each pixel of the plane.
template <int K, int D, int S, class T, int V>
void depthwise_input(const Layout<T, V>& l, Weights<T, V>& weights, BackwardWork<T, V>& work,
                     const Ahead& ahead) {
  constexpr int R = K / 2 * D;
  const Index row = l.shape.out_width + 2 * l.border;
  const Index plane = row * (l.shape.out_height + 2 * l.border);
  for (Index b = 0; b < l.blocks; b++) {
    const auto* du = work.d_depthwise.get() + b * plane + l.border * row + l.border;
    auto* dx = work.d_values.get() + b * l.plane + l.origin();
    for (Index h = 0; h < l.shape.height; h++) {
      auto* line = dx + h * l.row;
      if constexpr (S == 1) {
        depthwise_row<K, D, 1, true>(du + (h - R) * row - R, row,
                                     weights.flipped.get() + b * K * K, line, l.shape.width_px,
                                     ahead.from(h * l.shape.width_px).block(b));
      } else {
        const auto* w = weights.depthwise.get() + b * K * K;
        const auto* at = du + h / 2 * row;
        const Index even = (l.shape.width_px + 1) / 2, odd = l.shape.width_px / 2;
        if (h % 2 == 0) {
          depthwise_strided_input<K, D, 0, 0>(at, row, w, line, even);
          depthwise_strided_input<K, D, 0, 1>(at, row, w, line + 1, odd);
        } else {
          depthwise_strided_input<K, D, 1, 0>(at, row, w, line, even);
          depthwise_strided_input<K, D, 1, 1>(at, row, w, line + 1, odd);
        }
      }
    }
  }
}

// Backward pass of a separable convolution for output rows h ... h + rows - 1, except for
// `depthwise_input`. What is ahead is prefetched in the product of channels and in the depthwise
// one, one tensor in each, if there are both.
template <class T, int V>
void separable_chunk(const Layout<T, V>& l, const Convolution& c, Weights<T, V>& weights, Index h,
                     Index rows, Index chunk, bool needs_input, WeightSums<T, V>& sums,
                     BackwardWork<T, V>& work, const Ahead& ahead) {
  using v = typename VectorOf<T, V>::type;
  const Index wide = l.shape.out_width, pixels = rows * wide;
  const bool first = c.first_gradient, second = c.second_gradient;
  const bool has_product = needs_input || first, has_depthwise = first || second;
  if (has_product) {
    const Taps<v> taps{{work.dz.get()}, 1, chunk};
    pointwise<1, T, V>(taps, pixels, l.channels, weights.matrix.get(), l.blocks, work.du.get(),
                       Index(1), chunk,
                       Ahead{ahead.first, has_depthwise ? Stream{} : ahead.second});
  }
  with_geometry(c, [&](auto k, auto d, auto s) {
    constexpr int K = k.value, D = d.value, S = s.value, R = K / 2 * D;
    const Ahead left{has_product ? Stream{} : ahead.first, ahead.second};
    for (Index b = 0; has_depthwise && b < l.blocks; b++)
      for (Index r = 0; r < rows; r++) {
        const v* in = work.values.get() + b * l.plane + l.origin() + ((h + r) * S - R) * l.row - R;
        const Index at = b * chunk + r * wide;
        const v *du = work.du.get() + at, *w = weights.depthwise.get() + b * K * K;
        v *u = work.u.get() + at, *d_w = sums.depthwise.part.get() + b * K * K;
        const Ahead next = left.from(r * wide).block(b);
        if (first && second)
          depthwise_weights<K, D, S, true>(in, l.row, du, w, d_w, u, wide, next);
        else if (first)
          depthwise_weights<K, D, S, false>(in, l.row, du, w, d_w, u, wide, next);
        else
          depthwise_row<K, D, S, false>(in, l.row, w, u, wide, next);
      }
  });
  if (second)
    outer<1, T, V>(work.u.get(), l.blocks, chunk, work.dz.get(), l.blocks, chunk, pixels,
                   sums.matrix.part.get());
  if (!needs_input) return;
  const Index row = wide + 2 * l.border, plane = row * (l.shape.out_height + 2 * l.border);
  for (Index b = 0; b < l.blocks; b++)
    for (Index r = 0; r < rows; r++)
      std::memcpy(static_cast<void*>(work.d_depthwise.get() + b * plane + (h + r + l.border) * row +
                                     l.border),
                  work.du.get() + b * chunk + r * wide, wide * sizeof(v));
}

// Backward pass of a dense convolution for output rows h ... h + rows - 1.
template <class T, int V>
void dense_chunk(const Layout<T, V>& l, const Convolution& c, Weights<T, V>& weights, Index h,
                 Index rows, Index chunk, bool needs_input, WeightSums<T, V>& sums,
                 BackwardWork<T, V>& work) {
  using v = typename VectorOf<T, V>::type;
  const Index wide = l.shape.out_width, pixels = rows * wide;
  const Taps<v> taps{{work.dz.get()}, 1, chunk};
  for (int t = 0; t < taps_of(c); t++) {
    if (needs_input)
      pointwise<1, T, V>(taps, pixels, l.channels,
                         weights.matrix.get() + t * l.channels * l.blocks, l.blocks,
                         work.du.get(), Index(1), chunk);
    for (Index r = 0; r < rows; r++) {
      const auto at = taps_at(l, c, h + r, work.values.get());
      if (c.first_gradient || c.second_gradient) {
        v* matrix = sums.matrix.part.get() + t * l.shape.width * l.blocks;
        const v* dz = work.dz.get() + r * wide;
        if (c.stride == 1)
          outer<1, T, V>(at.at[t], l.blocks, l.plane, dz, l.blocks, chunk, wide, matrix);
        else
          outer<2, T, V>(at.at[t], l.blocks, l.plane, dz, l.blocks, chunk, wide, matrix);
      }
      if (!needs_input) continue;
      v* dx = work.d_values.get() + (at.at[t] - work.values.get());
      for (Index b = 0; b < l.blocks; b++)
        for (Index p = 0; p < wide; p++)
          dx[b * l.plane + p * c.stride] += work.du[b * chunk + r * wide + p];
    }
  }
}

// Masks the gradient of a plane by the ReLU and stores it in `d_values`. With a norm it also adds
// the gradient's sums S and T to `sums`.
template <class T, int V, class X>
void finish_values(const Layout<T, V>& l, BackwardWork<T, V>& work, X values, const T* norm,
                   typename VectorOf<T, V>::type* d_values, double* sums) {
  using v = typename VectorOf<T, V>::type;
  for (Index b = 0; b < l.blocks; b++) {
    const v mean = norm ? reinterpret_cast<const v*>(norm)[MEAN * l.blocks + b] : v{};
    for (Index h = 0; h < l.shape.height; h++) {
      const Index at = b * l.plane + l.origin() + h * l.row;
      v s{}, t{};
      for (Index w = 0; w < l.shape.width_px; w++) {
        const Index i = (h * l.shape.width_px + w) * l.blocks + b;
        const v d = work.values[at + w] <= v{} ? v{} : work.d_values[at + w];
        d_values[i] = d;
        if (norm) s += d, t += d * (values[i] - mean);
      }
      if (norm)
        for (int lane = 0; lane < V; lane++) {
          sums[b * V + lane] += s[lane];
          sums[(l.blocks + b) * V + lane] += t[lane];
        }
    }
  }
}

// Masks the gradient of the state that the first stage reads by the ReLU, and adds the gradients
// from pools, skip connections and other groups of edges (`before`, which may be NULL).
template <class T, int V>
void finish_state(const Layout<T, V>& l, BackwardWork<T, V>& work, bool convolved, bool with_edges,
                  const typename VectorOf<T, V>::type* before,
                  typename VectorOf<T, V>::type* dx) {
  using v = typename VectorOf<T, V>::type;
  const Index in = l.shape.height * l.shape.width_px;
  for (Index b = 0; b < l.blocks; b++)
    for (Index h = 0; h < l.shape.height; h++) {
      const Index at = b * l.plane + l.origin() + h * l.row;
      const Index pixel = h * l.shape.width_px;
      for (Index w = 0; w < l.shape.width_px; w++) {
        const Index i = (pixel + w) * l.blocks + b;
        v d = before ? before[i] : v{};
        if (convolved) d += work.values[at + w] <= v{} ? v{} : work.d_values[at + w];
        if (with_edges) d += work.by_edges[b * in + pixel + w];
        dx[i] = d;
      }
    }
}

// Backward pass of convolutions first ... last - 1 for one image.
template <class T, int V>
void convolve_backward_image(const Layout<T, V>& l, Index n, const void* values, const void* table,
                             int first, int last, const Convolution* convolutions,
                             std::vector<std::unique_ptr<Weights<T, V>>>& weights,
                             const void* outputs, void* d_values,
                             std::vector<std::unique_ptr<WeightSums<T, V>>>& weight_sums,
                             BackwardWork<T, V>& work, double* sums) {
  using v = typename VectorOf<T, V>::type;
  const Shape& shape = l.shape;
  const Index in = shape.height * shape.width_px, wide = shape.out_width;
  const Index rows_max = l.chunk_rows(), chunk = rows_max * wide;
  // With a table this is a second stage, whose values are what the first one returned.
  const bool is_short = shape.short_stages, reads_short = table && is_short;
  for (int i = first; i < last; i++) {
    const Convolution& c = convolutions[i];
    const Index image = c.reads * shape.images + n;
    const void* stored = l.stored_image(values, reads_short, image, in);
    const T* norm =
        table ? static_cast<const T*>(table) + c.reads * TABLE_ROWS * shape.width : nullptr;
    if (i == first || c.reads != convolutions[i - 1].reads) {
      with_stored<T, V>(reads_short, stored, [&](auto x) {
        fill_plane(l, x, norm, 0, shape.height, work.values.get());
      });
      if (d_values)
        std::memset(static_cast<void*>(work.d_values.get()), 0, l.plane * l.blocks * sizeof(v));
    }
    for (Index h = 0; h < shape.out_height; h += rows_max) {
      const Index rows = h + rows_max <= shape.out_height ? rows_max : shape.out_height - h;
      // What the next chunk reads: the next rows, or the first ones of the next convolution.
      const bool done = h + rows == shape.out_height && i + 1 < last;
      const void* next_g = l.image(convolutions[i + done].gradient, n, l.pixels_out);
      const void* next_z =
          l.stored_image(outputs, is_short, (i + done) * shape.images + n, l.pixels_out);
      const Ahead ahead = Ahead{l.stream(next_g), l.stream(next_z, is_short)}.from(
          done ? 0 : (h + rows) * wide);
      if (c.kind != SEPARABLE)
        for (Index b = 0; b < l.blocks; b++) ahead.block(b).fetch(0, rows * wide);
      const void* outputs_of = l.stored_image(outputs, is_short, i * shape.images + n, l.pixels_out);
      with_stored<T, V>(is_short, outputs_of, [&](auto z) {
        normalised_gradient(l, c, h * wide, rows * wide, l.image(c.gradient, n, l.pixels_out), z,
                            work.dz.get(), chunk);
      });
      const bool needs_input = d_values != nullptr;
      if (c.kind == SEPARABLE)
        separable_chunk(l, c, *weights[i], h, rows, chunk, needs_input, *weight_sums[i], work,
                        ahead);
      else
        dense_chunk(l, c, *weights[i], h, rows, chunk, needs_input, *weight_sums[i], work);
    }
    if (!d_values) continue;
    const Stream next = next_image(l, values, reads_short, last, convolutions, i, n);
    const Ahead ahead{next.at ? l.stream(l.image(d_values, image, in)) : Stream{}, next};
    if (c.kind == SEPARABLE)
      with_geometry(c, [&](auto k, auto d, auto s) {
        depthwise_input<k.value, d.value, s.value>(l, *weights[i], work, ahead);
      });
    if (norm && (i + 1 == last || c.reads != convolutions[i + 1].reads))
      with_stored<T, V>(reads_short, stored, [&](auto x) {
        finish_values(l, work, x, norm, const_cast<v*>(l.image(d_values, image, in)),
                      sums ? sums + 2 * c.reads * shape.width : nullptr);
      });
  }
}

// The convolutions of a stage in parts, so that there is work for all threads where images are few.
// Convolutions that read the same tensor with a norm stay together. Returns the first convolution
// of each part, and behind them the number of all.
inline std::vector<int> parts_of_stage(const Shape& shape, int count,
                                       const Convolution* convolutions, bool with_norms) {
  std::vector<int> starts;
  for (int i = 0; i < count; i++)
    if (i == 0 || !with_norms || convolutions[i].reads != convolutions[i - 1].reads)
      starts.push_back(i);
  const Index units = static_cast<Index>(starts.size());
  const Index parts = std::max<Index>(1, std::min(wanted_parts(shape), units));
  std::vector<int> firsts{0};
  for (Index part = 1; part < parts; part++) firsts.push_back(starts[part * units / parts]);
  firsts.push_back(count);
  return firsts;
}

// Adds what the parts of a stage have found for the state that they read to `before`, which may be
// NULL: `found` is [image][part][pixel] of blocks.
template <class T, int V>
void add_parts(const Layout<T, V>& l, Index parts, typename VectorOf<T, V>::type* found,
               const void* before, void* dx) {
  using v = typename VectorOf<T, V>::type;
  const Index in = l.shape.height * l.shape.width_px, row = l.shape.width_px * l.blocks;
  for_each(l.shape.threads, l.shape.images * l.shape.height, no_work, [&](Nothing&, Index i) {
    const Index n = i / l.shape.height, at = i % l.shape.height * row;
    const v* from = found + n * parts * in * l.blocks + at;
    for (Index j = 0; j < row; j++) {
      v sum = before ? l.image(before, n, in)[at + j] : v{};
      for (Index part = 0; part < parts; part++) sum += from[part * in * l.blocks + j];
      const_cast<v*>(l.image(dx, n, in))[at + j] = sum;
    }
  });
}

// Backward pass of a stage. With a table, `d_values` becomes the gradient of the normalised values,
// and `sums` its sums. Without one it becomes the gradient of the single state that is read,
// including those of its pools and skip connections (`list`) and `before`.
template <class T, int V>
void convolve_backward(const Shape& shape, const void* values, const void* table, int count,
                       const Convolution* convolutions, const void* outputs, void* d_values,
                       int reads, double* sums, int stride, int edges, const PoolGradient* list,
                       const void* before) {
  using v = typename VectorOf<T, V>::type;
  const Layout<T, V> l(shape, border_of(count, convolutions));
  const Index chunk = l.chunk_rows() * shape.out_width, in = shape.height * shape.width_px;
  using Sums = std::vector<std::unique_ptr<WeightSums<T, V>>>;
  std::vector<std::unique_ptr<Weights<T, V>>> weights;
  for (int i = 0; i < count; i++)
    weights.push_back(std::make_unique<Weights<T, V>>(convolutions[i], l, Pass::BACKWARD));
  struct Work {
    BackwardWork<T, V> buffers;
    Sums weight_sums;
    Index pixels;  // of the present part
  };
  const auto make = [&] {
    std::unique_ptr<Work> work(
        new Work{BackwardWork<T, V>(l, chunk, d_values != nullptr, edges > 0, stride), {}, 0});
    for (int i = 0; i < count; i++)
      work->weight_sums.push_back(std::make_unique<WeightSums<T, V>>(convolutions[i], l));
    return work;
  };
  const Index image_stride = 2 * reads * shape.width;
  std::vector<double> image_sums(sums ? shape.images * image_stride : 0, 0.0);
  const std::vector<int> firsts = parts_of_stage(shape, count, convolutions, table != nullptr);
  const Index parts = static_cast<Index>(firsts.size()) - 1;
  const bool of_state = d_values && !table;
  Buffer<v> found(of_state && parts > 1 ? shape.images * parts * in * l.blocks : 0);
  const auto works = for_each(shape.threads, shape.images * parts, make, [&](Work& work, Index i) {
    const Index n = i / parts, part = i % parts;
    convolve_backward_image(l, n, values, table, firsts[part], firsts[part + 1], convolutions,
                            weights, outputs, d_values, work.weight_sums, work.buffers,
                            sums ? image_sums.data() + n * image_stride : nullptr);
    work.pixels += l.pixels_out;
    if (work.pixels >= PIXELS_OF_PART) {  // of whole images
      for (auto& sums_of_one : work.weight_sums) sums_of_one->finish_part();
      work.pixels = 0;
    }
    if (!of_state) return;
    const bool with_edges = edges > 0 && part + 1 == parts;
    v* by_edges = work.buffers.by_edges.get();
    if (with_edges)
      edges_backward(l, l.image(values, n, in), n, edges, list, work.buffers.pools, by_edges);
    finish_state(l, work.buffers, count > 0, with_edges,
                 before && parts == 1 ? l.image(before, n, in) : nullptr,
                 parts > 1 ? found.get() + i * in * l.blocks
                           : const_cast<v*>(l.image(d_values, n, in)));
  });
  if (of_state && parts > 1) add_parts(l, parts, found.get(), before, d_values);
  for (int i = 0; i < count; i++) {
    for (auto& work : works) work->weight_sums[i]->finish_part();
    WeightSums<T, V>& all = *works[0]->weight_sums[i];
    for (std::size_t thread = 1; thread < works.size(); thread++)
      all.add_total(*works[thread]->weight_sums[i]);
    all.store(convolutions[i], l);
  }
  for (Index j = 0; sums && j < image_stride; j++) {
    sums[j] = 0;
    for (Index n = 0; n < shape.images; n++) sums[j] += image_sums[n * image_stride + j];
  }
}

}  // namespace hwnas
