// 3x3 pools with padding 1, forward and backward.
#pragma once

#include <limits>

#include "forward.hpp"

namespace hwnas {

// One over the number of pixels of the windows of one row that are inside the image.
template <class T>
struct Shares {
  Shares(Index h, Index height, Index width)
      : last(width - 1),
        rows(1 + (h > 0) + (h + 1 < height)),
        inside(static_cast<T>(1.0 / (3 * rows))),
        at_border(static_cast<T>(1.0 / (rows * (width > 1 ? 2 : 1)))) {}
  // For the window around column w.
  INLINE T operator[](Index w) const { return w == 0 || w == last ? at_border : inside; }

  Index last;
  int rows;
  T inside, at_border;
};

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
    const Shares<T> shares(h, height_, width_);
    for (Index p = 0; p < wide_; p++) {
      const Index w = p * stride_;
      maximum_[at + p] = largest<v>(largest<v>(largest_of[w - 1], largest_of[w]), largest_of[w + 1]);
      mean_[at + p] = (sum_of[w - 1] + sum_of[w] + sum_of[w + 1]) * broadcast<v>(shares[w]);
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

// Gradients of the pools of one block of channels, row by row.
//
// Of equal pixels the first in the order of rows and columns is a window's largest. So the largest
// of three columns is found once for each row of the input, and the largest of three such rows for
// each window. Places number the pixels of a window. A row of windows then passes its gradients on
// to three rows of the input, where each pixel gathers those of the windows around it.
template <class T, int V>
class PoolGradientRows {
 public:
  using v = typename VectorOf<T, V>::type;
  using Places = decltype(v{} < v{});

  PoolGradientRows(const Layout<T, V>& l, int stride)
      : l_(l), stride_(stride), width_(l.shape.width_px), buffer_(14 * (width_ + 2)) {
    for (int i = 0; i < 3; i++) {
      maximum_[i] = line(i), sum_[i] = line(3 + i);
      place_[i] = reinterpret_cast<Places*>(line(6 + i));
    }
    by_maximum_ = line(9), by_mean_ = line(10), place_of_ = reinterpret_cast<Places*>(line(11));
    largest_of_ = line(12), mean_of_ = line(13);
  }

  // Adds to `plane` the gradients of the pools and skip connections of image n, whose pixels are
  // `x`, in block b.
  void add(const v* x, Index n, Index b, int edges, const PoolGradient* list, v* plane) {
    const Index height = l_.shape.height;
    bool pooled = false;
    for (int e = 0; e < edges; e++) pooled = pooled || list[e].maximum || list[e].mean;
    Index done = 0;  // rows of the input whose columns have been compared
    for (Index h_out = 0; h_out < l_.shape.out_height; h_out++) {
      const Index h = h_out * stride_, top = h > 0 ? h - 1 : h;
      const Index bottom = h + 1 < height ? h + 1 : h;
      for (done = done < top ? top : done; pooled && done <= bottom; done++) columns(x + b, done);
      if (pooled) windows(h_out, top, bottom);
      terms(n, h_out, b, edges, list, plane + h_out * width_);
      for (Index i = top; pooled && i <= bottom; i++)
        gather(static_cast<int>(3 * (i - top)), plane + i * width_);
    }
  }

 private:
  // A row of the buffer, behind the pixel at its left border.
  v* line(int i) { return buffer_.get() + i * (width_ + 2) + 1; }

  // Largest pixels, their places and sums of three columns of row `h` of the input.
  void columns(const v* x, Index h) {
    v *maximum = maximum_[h % 3], *sum = sum_[h % 3];
    Places* place = place_[h % 3];
    const v* row = x + h * width_ * l_.blocks;
    for (Index w = 0; w < width_; w += stride_) {
      const v middle = row[w * l_.blocks];
      v m = middle, total = middle;
      Places at = Places{} + 1;
      if (w > 0) {
        const v left = row[(w - 1) * l_.blocks];
        const auto larger = middle > left;
        m = larger ? middle : left, at = larger ? at : Places{}, total += left;
      }
      if (w + 1 < width_) {
        const v right = row[(w + 1) * l_.blocks];
        const auto larger = right > m;
        m = larger ? right : m, at = larger ? Places{} + 2 : at, total += right;
      }
      maximum[w] = m, place[w] = at, sum[w] = total;
    }
  }

  // Largest pixels, their places and means of the windows of row `h_out`.
  void windows(Index h_out, Index top, Index bottom) {
    const Shares<T> shares(h_out * stride_, l_.shape.height, width_);
    for (Index p = 0; p < l_.shape.out_width; p++) {
      const Index w = p * stride_;
      v maximum = maximum_[top % 3][w], sum = sum_[top % 3][w];
      Places at = place_[top % 3][w];
      for (Index i = top + 1; i <= bottom; i++) {
        const auto larger = maximum_[i % 3][w] > maximum;
        maximum = larger ? maximum_[i % 3][w] : maximum;
        at = larger ? place_[i % 3][w] + static_cast<int>(3 * (i - top)) : at;
        sum += sum_[i % 3][w];
      }
      largest_of_[p] = maximum, mean_of_[p] = sum * broadcast<v>(shares[w]);
      place_of_[w] = at;
      by_maximum_[w] = by_mean_[w] = v{};
    }
  }

  // Gradients of the windows of row `h_out`, from those of all edges, whose skip connections add to
  // the row `skipped` of the input.
  void terms(Index n, Index h_out, Index b, int edges, const PoolGradient* list, v* skipped) {
    const Index wide = l_.shape.out_width;
    const Shares<T> shares(h_out * stride_, l_.shape.height, width_);
    for (int e = 0; e < edges; e++) {
      const PoolGradient& edge = list[e];
      const v* g = l_.image(edge.gradient, n, l_.pixels_out) + h_out * wide * l_.blocks + b;
      fetch_ahead(g + wide * l_.blocks, l_.blocks, wide);
      if (edge.maximum) add_term(edge.maximum, edge.maximum_row, g, b, largest_of_, by_maximum_);
      if (edge.mean) add_term(edge.mean, edge.mean_row, g, b, mean_of_, by_mean_);
      if (!edge.identity) continue;
      const v a = static_cast<const v*>(edge.identity)[b];
      for (Index w = 0; w < width_; w++) skipped[w] += a * g[w * l_.blocks];
    }
    for (Index p = 0; p < wide; p++)
      by_mean_[p * stride_] *= broadcast<v>(shares[p * stride_]);
  }

  // Adds a g + b (value - mean) + d for one row of windows to `sum`.
  void add_term(const void* coefficients, const void* row, const v* g, Index b, const v* values,
                v* sum) {
    const v* k = static_cast<const v*>(coefficients) + b;
    const v of_g = k[0], of_value = k[l_.blocks], constant = k[2 * l_.blocks];
    const v mean = static_cast<const v*>(row)[MEAN * l_.blocks + b];
    for (Index p = 0; p < l_.shape.out_width; p++)
      sum[p * stride_] += of_g * g[p * l_.blocks] + (of_value * (values[p] - mean) + constant);
  }

  // Adds to one row of the input what it gets from the windows around each pixel. `first` is the
  // place of a window's first pixel in this row.
  void gather(int first, v* row) {
    for (Index w = 0; w < width_; w++) {
      v sum = row[w];
      UNROLL for (int right = -1; right <= 1; right++) {
        const v maximum = by_maximum_[w + right];
        sum += by_mean_[w + right];
        sum += place_of_[w + right] == first + 1 - right ? maximum : v{};
      }
      row[w] = sum;
    }
  }

  const Layout<T, V>& l_;
  const int stride_;
  const Index width_;
  Buffer<v> buffer_;  // its borders, and what lies between windows at stride 2, stay zero
  v *maximum_[3], *sum_[3], *by_maximum_, *by_mean_, *largest_of_, *mean_of_;
  Places *place_[3], *place_of_;
};

// The gradient of one image from the pools and skip connections of all edges, as planes
// [block][pixel].
template <class T, int V>
void edges_backward(const Layout<T, V>& l, const typename VectorOf<T, V>::type* x, Index n,
                    int edges, const PoolGradient* list, PoolGradientRows<T, V>& rows,
                    typename VectorOf<T, V>::type* planes) {
  using v = typename VectorOf<T, V>::type;
  const Index in = l.shape.height * l.shape.width_px;
  std::memset(static_cast<void*>(planes), 0, in * l.blocks * sizeof(v));
  for (Index b = 0; b < l.blocks; b++) rows.add(x, n, b, edges, list, planes + b * in);
}

}  // namespace hwnas
